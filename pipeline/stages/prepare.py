"""Stage `prepare`: the data set as plain arrays with a manifest (`nenni_core.chain.prepare`)."""

from collections.abc import Mapping
from pathlib import Path

from nenni_core.chain.prepare import PrepareSettings, prepare
from nenni_core.chain.runtime import Runtime
from pipeline.config import Prepare


def settings_of(config: Prepare) -> PrepareSettings:
    """What the stage reads of its section."""
    return PrepareSettings(
        dataset=config.dataset,
        train_images=config.train_images,
        test_images=config.test_images,
        validation_images=config.validation_images,
    )


def run(
    config: Prepare, inputs: Mapping[str, Path], out: Path, *, seed: int, runtime: Runtime
) -> dict[str, float]:
    """Load, limit and split the data set; `seed` is the split's. Raises `InputError`."""
    return prepare(settings_of(config), inputs, out, seed=seed, runtime=runtime)


def draw(out: Path) -> None:
    """There is no picture of it."""


if __name__ == "__main__":
    from pipeline.stages.command import main

    main("prepare")
