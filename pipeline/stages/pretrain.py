"""Stage `pretrain`: the dense teacher (`nenni_core.chain.pretrain`), and `learning_curve.png`."""

from collections.abc import Mapping
from pathlib import Path

from nenni_core.chain.learning import HISTORY
from nenni_core.chain.pretrain import PretrainSettings, pretrain
from nenni_core.chain.runtime import Runtime
from nenni_core.files import read_json
from pipeline import figures
from pipeline.config import Pretrain


def settings_of(config: Pretrain) -> PretrainSettings:
    """What the stage reads of its section."""
    return PretrainSettings(
        architecture=config.architecture, defense=config.defense.model_dump(), recipe=config.recipe()
    )


def run(
    config: Pretrain, inputs: Mapping[str, Path], out: Path, *, seed: int, runtime: Runtime
) -> dict[str, float]:
    """Train from fresh weights, or on from the checkpoint of an interrupted process.

    Raises `TrainingDiverged` if the loss is no longer finite.
    """
    metrics = pretrain(settings_of(config), inputs, out, seed=seed, runtime=runtime)
    draw(out)
    return metrics


def draw(out: Path) -> None:
    """Add the picture to an output that has everything else."""
    figures.learning_curve(read_json(out / HISTORY), out / "learning_curve.png")


if __name__ == "__main__":
    from pipeline.stages.command import main

    main("pretrain")
