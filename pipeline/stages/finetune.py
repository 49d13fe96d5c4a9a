"""Stage `finetune`: one variant (`nenni_core.chain.finetune`), `learning_curve.png` and `densities.png`."""

import csv
from collections.abc import Mapping
from pathlib import Path

from nenni_core.chain.finetune import DENSITIES_CSV, FineTuneSettings, finetune
from nenni_core.chain.learning import HISTORY
from nenni_core.chain.runtime import Runtime
from nenni_core.files import read_json
from pipeline import figures
from pipeline.config import FineTune


def settings_of(config: FineTune) -> FineTuneSettings:
    """What the stage reads of its section."""
    return FineTuneSettings(
        ratio=config.ratio,
        pattern=config.pattern,
        layer_ratios=config.layer_ratios,
        objective=config.objective,
        selection=config.selection,
        score=config.score,
        target=config.target,
        checkpoint=config.checkpoint,
        calibration_images=config.calibration_images,
        recipe=config.recipe(),
    )


def run(
    config: FineTune, inputs: Mapping[str, Path], out: Path, *, seed: int, runtime: Runtime
) -> dict[str, float]:
    """Fine-tune the distilled model with its noise in place. Raises `TrainingDiverged`."""
    metrics = finetune(settings_of(config), inputs, out, seed=seed, runtime=runtime)
    draw(out)
    return metrics


def draw(out: Path) -> None:
    """Add the pictures to an output that has everything else."""
    figures.learning_curve(read_json(out / HISTORY), out / "learning_curve.png")
    with (out / DENSITIES_CSV).open(newline="", encoding="utf-8") as file:
        rows = [
            {"index": int(row["index"]), "density": float(row["density"]), "nominal": float(row["nominal"])}
            for row in csv.DictReader(file)
        ]
    figures.densities(rows, out / "densities.png")


if __name__ == "__main__":
    from pipeline.stages.command import main

    main("finetune")
