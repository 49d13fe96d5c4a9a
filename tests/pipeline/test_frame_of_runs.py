"""Whatever the pipeline tracks is a documented column of the frame that a notebook gets."""

from pathlib import Path
from typing import Any

import pytest
from stored_stages import plans_of

from analysis import describe_columns, load_runs
from pipeline.config import Tracking
from pipeline.runner import ensure
from pipeline.store import Store
from pipeline.tracking import Tracker


@pytest.mark.slow
def test_every_column_of_tracked_runs_is_described(
    tmp_path: Path, tiny: dict[str, Any], settings: Tracking, uri: str
) -> None:
    """Every stage, with what only some attacks have: a verdict on masked gradients, median distances."""
    tiny["pretrain"]["defense"] = ["adversarial", "sparse"]
    tiny["finetune"] |= {"defenses": ["adversarial"]}
    tiny["simulate"] = {"images": 2}
    tiny["attack"]["attacks"] = {
        "fgsm": {"kind": "fgsm"},
        "pgd20": {"kind": "pgd", "steps": 2},
        "deepfool": {"kind": "deepfool", "steps": 2},
        "pgd2_probe": {"kind": "pgd", "steps": 2, "in_worst_case": False},
        "pgd20_unbounded_probe": {"kind": "pgd", "eps": "64/255", "steps": 2, "in_worst_case": False},
        "transfer": {"kind": "transfer", "steps": 2},
        "apgd_ce": {"kind": "apgd_ce", "steps": 2, "gradient": "straight_through"},
        "square": {"kind": "square", "queries": 2, "survivors_of": ["apgd_ce"]},
    }
    store, plans = Store(tmp_path), plans_of(tiny)
    tracker = Tracker(settings, plans, store=store, uri=uri)
    [dense, noisy, sparse] = plans
    for last, planned in (("attack", dense), ("simulate", noisy), ("defend", sparse)):
        ensure(last, planned, store=store, observer=tracker)
    tracker.close()
    runs = load_runs(uri, settings.experiment, stage=None)
    stages = {"prepare", "pretrain", "defend", "distill", "finetune", "attack", "simulate"}
    assert set(runs["stage"]) == stages
    described = describe_columns(runs)
    assert described.filter(meaning="")["column"].to_list() == []
    prefixes = {name.partition("/")[0] for name in described["column"] if "/" in name}
    assert {"masking", "median_distance", "joules", "images", "zero_gradients"} <= prefixes
