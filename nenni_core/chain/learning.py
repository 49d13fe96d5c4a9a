"""The training loop as a stage runs it: recipe from the configuration, checkpoints, history files."""

from pathlib import Path

from torch import nn

from nenni_core.chain.artifacts import Prepared
from nenni_core.chain.runtime import Runtime
from nenni_core.chain.speed import Gauge
from nenni_core.defenses import Defense
from nenni_core.files import write_csv, write_json
from nenni_core.training import EpochRecord, Recipe, TrainingResult, train

HISTORY = "history.json"
CURVE = "history.csv"
COMPILED = "compiled"
"""Folder of the checkpoints of a compiled training, which rounds differently."""
COLUMNS = (
    "epoch",
    "learning_rate",
    "train_loss",
    "train_accuracy",
    "validation_clean_accuracy",
    "validation_robust_accuracy",
)
"""What is kept of an epoch: all but how long it took."""


def fit(
    model: nn.Module,
    data: Prepared,
    recipe: Recipe,
    defense: Defense,
    out: Path,
    *,
    seed: int,
    runtime: Runtime,
) -> TrainingResult:
    """Train `model` in place and write `history.json`, `history.csv` and `timing.json`.

    Its images per second are those that were trained on; the seconds have the validation in them.

    Continues from the checkpoint of an interrupted process in `out`, with `compile` from that of a compiled
    training only: the others would not end in the same bits. Raises `TrainingDiverged`.
    """
    gauge = Gauge(runtime.device)
    scratch = runtime.scratch(out)

    def on_epoch(record: EpochRecord) -> None:
        values = record_values(record)
        runtime.on_record(values, int(values.pop("epoch")))

    result = train(
        model,
        data.train.images,
        data.train.labels,
        data.validation.images,
        data.validation.labels,
        recipe,
        seed=seed,
        checkpoint_dir=scratch / COMPILED if runtime.compile else scratch,
        defense=defense,
        on_progress=runtime.progress,
        on_epoch=on_epoch,
        compiled=runtime.compile,
    )
    rows = history_rows(result)
    write_json(out / HISTORY, rows)
    write_csv(out / CURVE, COLUMNS, rows)
    seconds = [record.seconds for record in result.history]
    images = len(seconds) * len(data.train.labels)
    gauge.write(out, {"seconds/epoch": seconds, "images_per_second": images / sum(seconds)})
    return result


def history_rows(result: TrainingResult) -> list[dict[str, float | int]]:
    """`record_values` of every epoch."""
    return [record_values(record) for record in result.history]


def record_values(record: EpochRecord) -> dict[str, float | int]:
    """What an epoch did, without how long it took."""
    return {name: getattr(record, name) for name in COLUMNS}


def summary(result: TrainingResult) -> dict[str, float | int]:
    """The last epoch's numbers, and those of the epoch that gave the best checkpoint."""
    rows = history_rows(result)
    best = rows[result.best_epoch - 1]
    chosen = ("epoch", "validation_clean_accuracy", "validation_robust_accuracy")
    return (
        {f"best_{name}": best[name] for name in chosen}
        | {f"last_{name}": rows[-1][name] for name in chosen[1:]}
        | {"last_train_loss": rows[-1]["train_loss"], "last_train_accuracy": rows[-1]["train_accuracy"]}
    )
