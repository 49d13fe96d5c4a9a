"""Stage `attack`: every attack of the protocol on one model, dense or a variant (`nenni_core.chain.attack`).

Adds `records.parquet` (one row per test image) and `examples.png` to what the chain writes.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from nenni_core.chain.artifacts import DATASET
from nenni_core.chain.attack import AttackSettings, attack
from nenni_core.chain.runtime import Runtime
from nenni_core.evaluation import Examples
from nenni_core.files import read_json
from pipeline import figures
from pipeline.config import AttackRun

RECORDS = "records.parquet"


def settings_of(config: AttackRun) -> AttackSettings:
    """What the stage reads of its section."""
    return AttackSettings(
        attacks=tuple(config.specifications()),
        images=config.images,
        batch_size=config.batch_size,
        ensemble=config.ensemble,
        judge_draws=config.judge_draws,
        examples=config.examples,
        checkpoint=config.checkpoint,
        split=config.split,
    )


def run(
    config: AttackRun, inputs: Mapping[str, Path], out: Path, *, seed: int, runtime: Runtime
) -> dict[str, float]:
    """Attack images of one split; attacks that an interrupted process has finished are not run again."""
    metrics, evaluation = attack(settings_of(config), inputs, out, seed=seed, runtime=runtime)
    draw(
        out, evaluation.records(), evaluation.examples, read_json(inputs["prepare"] / DATASET)["class_names"]
    )
    return metrics


def draw(out: Path, records: Mapping[str, np.ndarray], examples: Examples, class_names: list[str]) -> None:
    """Add the table and the picture to an output that has everything else."""
    import polars  # not at the top: slow, and not needed when everything is in the store

    polars.DataFrame(dict(records)).write_parquet(out / RECORDS)
    if len(examples.index):
        figures.adversarial_examples(examples, class_names, out / "examples.png")


if __name__ == "__main__":
    from pipeline.stages.command import main

    main("attack")
