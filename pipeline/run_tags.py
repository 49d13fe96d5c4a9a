"""What a tracked run is called by: its tags and parameters."""

import json
from collections.abc import Mapping
from typing import Any

from nenni_core.chain.attack import MASKING
from nenni_core.files import canonical_json, read_json
from pipeline.keys import stage_seed
from pipeline.provenance import commit
from pipeline.runner import Plan
from pipeline.store import Entry

WEIGHTS = ".safetensors"
"""Suffix of the files that stay in the store; the runs name their SHA-256."""


def stage_tags(stage: str, plan: Plan) -> dict[str, str]:
    """What a run is of: known before it has run. Empty text where a tag does not apply."""
    experiment, state = plan.experiment, commit()
    tags = {
        "kind": "stage",
        "stage": stage,
        "key": plan.keys[stage],
        "upstream_keys": json.dumps(plan.upstream_keys(stage), sort_keys=True),
        "dataset": experiment.prepare.dataset,
        "data_fingerprint": plan.data_fingerprint,
        "seed": str(stage_seed(stage, experiment)),
        "git_commit": state.sha,
        "git_dirty": str(state.dirty).lower(),
    }
    if stage != "prepare":
        trained_by = experiment.training(stage).defense
        tags |= {
            "model": experiment.pretrain.model,
            "trained_by": trained_by.label,
            "trained_by_title": trained_by.title,
            "trained_by_settings": canonical_json(trained_by.model_dump(mode="json")),
            "pretrain_epochs": str(experiment.pretrain.epochs),
        }
    if stage in ("finetune", "attack", "simulate"):
        rule = experiment.finetune
        tags |= {
            "variant": experiment.label,
            "defence": "dense" if rule is None else "noise_injection",
            "ratio": "" if rule is None or rule.ratio is None else repr(rule.ratio),
            "pattern": "" if rule is None else rule.pattern or "",
            "layer_ratios": "" if rule is None else rule.layer_ratios_name or "",
            "objective": "" if rule is None else rule.objective,
            "target": "" if rule is None else rule.target,
            "selection": "" if rule is None else rule.selection,
            "score": "" if rule is None else rule.score,
            "randomize": "" if rule is None else experiment.distill.randomize,
            "random": str(experiment.is_random).lower(),
            "ensemble": str(experiment.attack.ensemble) if stage == "attack" else "",
            "bits": "" if rule is None else str(experiment.distill.bits),
            "projection_ratio": "" if rule is None else repr(experiment.distill.projection_ratio),
        }
    return tags


def result_tags(entry: Entry) -> dict[str, str]:
    """What is known of a result only when it is there; the commit is the one that computed it."""
    manifest = entry.manifest
    tags = {
        "git_commit": manifest.git_commit,
        "git_dirty": str(manifest.git_dirty).lower(),
        "digest": manifest.digest,
        "versions": json.dumps(manifest.versions),
        "device": manifest.device,
        "threads": str(manifest.threads),
    }
    if manifest.imported_from:
        tags["imported_from"] = manifest.imported_from
    weights = {name: record.sha256 for name, record in manifest.files.items() if name.endswith(WEIGHTS)}
    if weights:
        tags["weights_sha256"] = json.dumps(weights)
    if MASKING in manifest.files:
        tags["masking"] = ", ".join(read_json(entry.path / MASKING)["raised"]) or "no sign of it"
    if "images" in manifest.metrics:
        tags["images"] = str(int(manifest.metrics["images"]))
    return tags


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested configuration as parameters with dotted names: `attacks.pgd20.eps` is "8/255"."""
    flat: dict[str, str] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value if isinstance(value, str) else json.dumps(value)
    return flat
