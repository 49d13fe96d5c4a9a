"""The small files of a stage that DVC follows: which entries there are, metrics to compare, curves to plot.

They hold nothing that differs between two equal runs (no seconds, no dates).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nenni_core.files import read_json, write_csv, write_json
from pipeline.experiment import Experiment
from pipeline.store import Entry

Row = dict[str, Any]


@dataclass(frozen=True)
class Result:
    """The entry of one stage for one experiment."""

    experiment: Experiment
    entry: Entry


@dataclass(frozen=True)
class Folders:
    """Where the files go."""

    outputs: Path
    metrics: Path
    plots: Path


def export(stage: str, results: Sequence[Result], folders: Folders) -> None:
    """Write `entries.json`, the metrics and the plot data of one stage for a whole set of experiments."""
    distinct: dict[str, dict[str, Any]] = {}
    for result in results:
        manifest = result.entry.manifest
        record = distinct.setdefault(
            manifest.key, {"experiments": [], "key": manifest.key, "digest": manifest.digest}
        )
        record["experiments"].append(result.experiment.label)
    write_json(folders.outputs / stage / "entries.json", {"stage": stage, "entries": list(distinct.values())})
    write_json(folders.metrics / f"{stage}.json", _metrics(stage, results))
    if stage in _PLOTS:
        name, columns, rows_of = _PLOTS[stage]
        rows = [row for result in _first_of_each(results) for row in rows_of(stage, result)]
        attacks = (
            sorted({column for row in rows for column in row} - set(columns)) if stage == "attack" else []
        )
        write_csv(folders.plots / name, [*columns, *attacks], rows)


def _first_of_each(results: Sequence[Result]) -> list[Result]:
    """One result per entry: experiments share the early stages."""
    return list({result.entry.manifest.key: result for result in reversed(results)}.values())[::-1]


def _metrics(stage: str, results: Sequence[Result]) -> dict[str, Any]:
    if stage in ("finetune", "attack", "simulate"):
        return {result.experiment.label: _comparable(stage, result.entry.metrics) for result in results}
    found = {_network(stage, result): dict(result.entry.metrics) for result in _first_of_each(results)}
    return next(iter(found.values())) if len(found) == 1 else found


def _network(stage: str, result: Result) -> str:
    """What tells the entries of an early stage apart: the defence, and how the noise is drawn."""
    distill = result.experiment.distill
    defense = result.experiment.training(stage).defense.label
    usual = stage != "distill" or distill.randomize == "fixed"
    return defense if usual else f"{defense}-{distill.randomize.replace('_', '-')}"


def _comparable(stage: str, metrics: dict[str, float]) -> dict[str, float]:
    """What is worth comparing between two versions: accuracies and the cost."""
    if stage == "finetune":
        return {
            "validation_clean": metrics["last_validation_clean_accuracy"],
            "validation_robust": metrics["last_validation_robust_accuracy"],
            "mean_density": metrics["mean_density"],
        }
    if stage == "simulate":
        return {name: value for name, value in metrics.items() if "_over_dense/" in name}
    chosen = {
        name.removeprefix("accuracy/"): value
        for name, value in metrics.items()
        if name.startswith("accuracy/")
    }
    return chosen | {"bitops_ratio": metrics["bitops_measured"] / metrics["bitops_dense"]}


def _epochs(stage: str, result: Result) -> list[Row]:
    path = result.entry.path / "history.json"  # nothing is trained where a defence is only put on
    rows: list[Row] = read_json(path) if path.is_file() else []
    return [{"network": _network(stage, result)} | row for row in rows]


def _layers(stage: str, result: Result) -> list[Row]:
    rows = read_json(result.entry.path / "layers.json")
    return [{"network": _network(stage, result), "index": index} | row for index, row in enumerate(rows)]


def _densities(stage: str, result: Result) -> list[Row]:
    measured = read_json(result.entry.path / "densities.json")
    return [
        {"index": index, "layer": layer, "variant": result.experiment.label, "density": density}
        for index, (layer, density) in enumerate(measured.items())
    ]


def _accuracies(stage: str, result: Result) -> list[Row]:
    return [{"variant": result.experiment.label} | _comparable(stage, result.entry.metrics)]


def _simulations(stage: str, result: Result) -> list[Row]:
    rows = read_json(result.entry.path / "simulation.json")["rows"]
    return [{"variant": result.experiment.label} | {name: row[name] for name in _SIMULATED} for row in rows]


_SIMULATED = [
    "network",
    "noise",
    "noisy_share",
    "density",
    "core",
    "masks",
    "cycles",
    "joules",
    "seconds_over_dense",
    "joules_over_dense",
    "energy_delay_joule_seconds_over_dense",
    "operations_per_joule_over_dense",
    "operations_per_second_mm2_over_dense",
]
_CURVE = [
    "network",
    "epoch",
    "learning_rate",
    "train_loss",
    "train_accuracy",
    "validation_clean_accuracy",
    "validation_robust_accuracy",
]
_PLOTS = {
    "pretrain": ("learning_curve.csv", _CURVE, _epochs),
    "defend": ("defend_curve.csv", _CURVE, _epochs),
    "distill": (
        "distillation.csv",
        ["network", "index", "name", "nmse", "nmse_quantized", "top_k_recall"],
        _layers,
    ),
    "finetune": ("densities.csv", ["index", "layer", "variant", "density"], _densities),
    "attack": ("accuracy.csv", ["variant", "bitops_ratio", "clean"], _accuracies),
    "simulate": ("simulation.csv", ["variant", *_SIMULATED], _simulations),
}
