"""Attack runs for the paper's tables, as rows of `analysis.load_runs`."""

import json
from typing import Any

import polars as pl

from analysis.columns import COLUMNS, COUNT_PREFIXES

IMAGES = 10_000
EPS, STEP = "8/255", "2/255"
ATTACKS = {
    "pgd20": {"kind": "pgd", "eps": EPS, "step_size": STEP, "steps": "20", "gradient": "blocked"},
    "fgsm": {"kind": "fgsm", "eps": EPS, "gradient": "blocked"},
    "mifgsm": {"kind": "mifgsm", "eps": EPS, "step_size": STEP, "steps": "5", "gradient": "blocked"},
    "cw_l2": {"kind": "cw", "c": "0.0001", "steps": "1000", "learning_rate": "0.01"},
    "autoattack_torchattacks": {"kind": "autoattack_torchattacks", "eps": EPS, "gradient": "blocked"},
    "apgd_ce": {"kind": "apgd_ce", "eps": EPS, "steps": "100", "eot_samples": "20"},
}
DENSE = {"defence": "dense", "trained_by": "adversarial"}
_PARAMS = {f"attacks.{name}.{field}": value for name, own in ATTACKS.items() for field, value in own.items()}


def noise(ratio: float, objective: str = "clean") -> dict[str, Any]:
    """A network with noise by its ratio, everything else as usual."""
    return {
        "defence": "noise_injection",
        "trained_by": "adversarial",
        "ratio": ratio,
        "objective": objective,
        "target": "non_essential",
        "randomize": "fixed",
        "selection": "top_k",
        "score": "magnitude",
        "bits": 4,
        "projection_ratio": 0.25,
    }


def prepared(dataset: str = "cifar10", *, params: dict[str, str] | None = None) -> dict[str, Any]:
    """The run of the stage before all others, on the whole data set."""
    said = {"train_images": "null", "test_images": "null"} | (params or {})
    return _row(stage="prepare", key=f"prepare-{dataset}", dataset=dataset, params=json.dumps(said)) | {
        "images/test": float(IMAGES)
    }


def attack(
    network: dict[str, Any], counts: dict[str, int], *, params: dict[str, str] | None = None, **other: Any
) -> dict[str, Any]:
    """An attack run with so many right images by column; an attack of `ATTACKS` that is not given has 1."""
    images = other.get("images", IMAGES)
    every = dict.fromkeys(("clean", *ATTACKS, "worst_case"), 1) | counts
    row = _row(stage="attack", images=images, bitops_dense=100.0, bitops_nominal=100.0) | network
    if network["defence"] != "dense" and network.get("ratio"):
        row["bitops_nominal"] = 100.0 * (1 - 0.9 * network["ratio"])
    row["upstream_keys"] = json.dumps({"prepare": f"prepare-{other.get('dataset', 'cifar10')}"})
    row["params"] = json.dumps(_PARAMS | (params or {}))
    row |= other
    if row["status"] == "FINISHED":
        row |= {f"correct/{name}": count for name, count in every.items()}
        row |= {f"accuracy/{name}": count / images for name, count in every.items()}
    return row


def frame(*rows: dict[str, Any]) -> pl.DataFrame:
    """Rows as `load_runs` gives them."""
    metrics = sorted({name for row in rows for name in row if "/" in name})
    schema: dict[str, Any] = {name: kind for name, (kind, _) in COLUMNS.items()}
    schema |= {name: pl.Int64() if name.startswith(COUNT_PREFIXES) else pl.Float64() for name in metrics}
    numbered = [
        row | {"run_id": row["run_id"] or f"run{place}", "start_ms": row["start_ms"] or place}
        for place, row in enumerate(rows)
    ]
    return pl.DataFrame(numbered, schema=schema, orient="row")


def _row(**values: Any) -> dict[str, Any]:
    return (
        dict.fromkeys(COLUMNS)
        | {
            "status": "FINISHED",
            "model": "resnet18",
            "dataset": "cifar10",
            "seed": 0,
            "ensemble": 1,
            "random": False,
            "pretrain_epochs": 200,
            "git_commit": "c" * 40,
            "git_dirty": False,
            "data_fingerprint": "f" * 64,
            "upstream_keys": "{}",
        }
        | values
    )
