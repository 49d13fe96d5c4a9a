"""Store entries with the files that the real stages write, made without computing anything."""

import json
from pathlib import Path
from typing import Any

from manifests import manifest

from pipeline.experiment import ExperimentSet
from pipeline.keys import stage_config, stage_seed
from pipeline.runner import Plan, plan
from pipeline.store import Entry, Store

EPOCHS = 3


def plans_of(content: dict[str, Any]) -> list[Plan]:
    return plan(ExperimentSet.model_validate(content).experiments())


def history(epochs: int = EPOCHS) -> list[dict[str, float]]:
    return [{"epoch": i, "train_loss": 2.0 - i, "train_accuracy": i / 10} for i in range(epochs)]


def store_stage(store: Store, stage: str, planned: Plan) -> Entry:
    """A finished entry of `stage` as it would be in the store."""
    key = planned.keys[stage]
    found = store.find(stage, key)
    if found is not None:
        return found
    out = store.begin(stage, key)
    metrics = {"best_epoch": 1.0}
    if stage == "prepare":
        facts = {
            "name": "synthetic",
            "source": "generated",
            "images": {"train": 36, "test": 20},
            "image_shape": [3, 16, 16],
            "sha256": {"train_images": "f" * 64},
        }
        (out / "dataset.json").write_text(json.dumps(facts))
        (out / "arrays.safetensors").write_bytes(b"arrays")
    elif stage in ("pretrain", "finetune"):
        (out / "history.json").write_text(json.dumps(history()))
        (out / "timing.json").write_text(json.dumps({"seconds/epoch": [0.5] * EPOCHS}))
        (out / "model.safetensors").write_bytes(b"weights")
    elif stage == "attack":
        metrics = {"images": 12.0, "accuracy/clean": 0.5, "accuracy/fgsm": 0.25, "correct/fgsm": 3.0}
        (out / "timing.json").write_text(json.dumps({"seconds/fgsm": 1.25}))
        (out / "results.json").write_text("{}")
    return store.commit(
        manifest(
            key,
            stage,
            config=stage_config(stage, planned.experiment),
            seed=stage_seed(stage, planned.experiment),
            upstream=planned.upstream_keys(stage),
            upstream_digests={
                name: store_stage(store, name, planned).manifest.digest
                for name in planned.upstream_keys(stage)
            },
            data_fingerprint=planned.data_fingerprint,
            metrics=metrics,
        )
    )


def store_set(root: Path, content: dict[str, Any]) -> tuple[Store, list[Plan]]:
    """A store with everything that a parameter file describes."""
    store, plans = Store(root), plans_of(content)
    for planned in plans:
        for stage in planned.experiment.stages:
            store_stage(store, stage, planned)
    return store, plans
