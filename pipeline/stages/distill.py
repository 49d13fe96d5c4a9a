"""Stage `distill`: the approximation of each layer (`nenni_core.chain.distill`), and `distillation.png`."""

from collections.abc import Mapping
from pathlib import Path

from nenni_core.chain.distill import LAYERS, DistillSettings, distill_teacher
from nenni_core.chain.runtime import Runtime
from nenni_core.files import read_json
from pipeline import figures
from pipeline.config import Distill


def settings_of(config: Distill) -> DistillSettings:
    """What the stage reads of its section: all of it."""
    return DistillSettings(**dict(config))


def run(
    config: Distill, inputs: Mapping[str, Path], out: Path, *, seed: int, runtime: Runtime
) -> dict[str, float]:
    """Distil from training images; returns means over the layers."""
    metrics = distill_teacher(settings_of(config), inputs, out, seed=seed, runtime=runtime)
    draw(out)
    return metrics


def draw(out: Path) -> None:
    """Add the picture to an output that has everything else."""
    figures.distillation(read_json(out / LAYERS), out / "distillation.png")


if __name__ == "__main__":
    from pipeline.stages.command import main

    main("distill")
