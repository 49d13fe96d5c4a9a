"""Stages that are computed again, after an interruption, a failure or with another result."""

import json
from pathlib import Path
from typing import Any

import pytest
from manifests import manifest
from mlflow import MlflowClient
from stored_stages import plans_of, store_set, store_stage
from tracked_runs import history, runs_of, track

from pipeline.config import Tracking
from pipeline.runner import Plan
from pipeline.store import Entry, Store
from pipeline.tracking import Tracker


def recompute(store: Store, planned: Plan, losses: list[float]) -> Entry:
    """Put another result of the stage `pretrain` into the store."""
    key = planned.keys["pretrain"]
    store.discard("pretrain", key)
    out = store.begin("pretrain", key)
    rows = [{"epoch": step, "train_loss": loss} for step, loss in enumerate(losses)]
    (out / "history.json").write_text(json.dumps(rows))
    return store.commit(manifest(key, metrics={"best_epoch": 0.0}))


@pytest.mark.parametrize("watched", [True, False], ids=["watched", "tracking was off"])
def test_another_result_replaces_the_run_of_the_old_one(
    tmp_path: Path, tiny: dict[str, Any], settings: Tracking, uri: str, client: MlflowClient, watched: bool
) -> None:
    store, plans = store_set(tmp_path, tiny)
    track(store, plans, settings, uri)
    _, before = runs_of(client, settings)
    if watched:
        tracker = Tracker(settings, plans, store=store, uri=uri)
        with tracker.computing("pretrain", plans[0], resumed=False) as on_record:
            on_record({"train_loss": 7.0}, 0)
            entry = recompute(store, plans[0], [7.0, 6.0])
        tracker.finished("pretrain", plans[0], entry, cached=False)
        tracker.close()
    else:
        recompute(store, plans[0], [7.0, 6.0])
        track(store, plans, settings, uri)
    [parent], after = runs_of(client, settings)
    assert parent.info.status == "FINISHED"
    assert len(after) == len(before)
    [old] = [run for run in before if run.data.tags["stage"] == "pretrain"]
    [new] = [run for run in after if run.data.tags["stage"] == "pretrain"]
    assert new.info.run_id != old.info.run_id
    assert new.info.status == "FINISHED"
    assert history(client, new) == [(0, 7.0), (1, 6.0)]
    assert new.data.metrics["best_epoch"] == 0.0
    others = [
        {run.info.run_id for run in runs} - {old.info.run_id, new.info.run_id} for runs in (before, after)
    ]
    assert others[0] == others[1]
    assert client.get_run(old.info.run_id).info.lifecycle_stage == "deleted"


@pytest.mark.parametrize("resumed", [True, False])
def test_a_stage_begun_anew_does_not_keep_the_curves_of_the_attempt_before(
    tmp_path: Path, tiny: dict[str, Any], settings: Tracking, uri: str, client: MlflowClient, resumed: bool
) -> None:
    store, plans = Store(tmp_path), plans_of(tiny)
    killed = Tracker(settings, plans, store=store, uri=uri)
    killed.computing("pretrain", plans[0], resumed=False).__enter__()({"train_loss": 9.0}, 0)
    again = Tracker(settings, plans, store=store, uri=uri)
    with again.computing("pretrain", plans[0], resumed=resumed):
        entry = recompute(store, plans[0], [9.0 if resumed else 7.0, 6.0])
    again.finished("pretrain", plans[0], entry, cached=False)
    _, [run] = runs_of(client, settings)
    assert history(client, run) == [(0, 9.0 if resumed else 7.0), (1, 6.0)]


def test_a_resumed_stage_continues_its_run_without_repeating_steps(
    tmp_path: Path, tiny: dict[str, Any], settings: Tracking, uri: str, client: MlflowClient
) -> None:
    store, plans = Store(tmp_path), plans_of(tiny)
    first = Tracker(settings, plans, store=store, uri=uri)
    context = first.computing("pretrain", plans[0], resumed=False)
    on_record = context.__enter__()  # and no exit: what a killed process leaves
    on_record({"train_loss": 2.0}, 0)
    [parent], [run] = runs_of(client, settings)
    assert (parent.info.status, run.info.status) == ("RUNNING", "RUNNING")
    assert run.data.tags["cached"] == "false"
    assert history(client, run) == [(0, 2.0)]

    second = Tracker(settings, plans, store=store, uri=uri)
    with second.computing("pretrain", plans[0], resumed=True) as on_record:
        on_record({"train_loss": 2.0, "train_accuracy": 0.0}, 0)
        on_record({"train_loss": 1.0, "train_accuracy": 0.1}, 1)
        entry = store_stage(store, "pretrain", plans[0])
    second.finished("pretrain", plans[0], entry, cached=False)
    second.close()
    [parent], [again] = runs_of(client, settings)
    assert again.info.run_id == run.info.run_id
    assert again.info.status == "FINISHED"
    assert parent.info.status == "RUNNING"  # the other stages are still to come
    assert history(client, again) == [(0, 2.0), (1, 1.0), (2, 0.0)]


@pytest.mark.parametrize(
    ("error", "status"),
    [(RuntimeError("loss is nan in epoch 3"), "FAILED"), (KeyboardInterrupt(), "KILLED")],
    ids=["diverged", "interrupted"],
)
def test_a_failed_stage_ends_its_run_and_can_be_done_again(
    tmp_path: Path,
    tiny: dict[str, Any],
    settings: Tracking,
    uri: str,
    client: MlflowClient,
    error: BaseException,
    status: str,
) -> None:
    store, plans = Store(tmp_path), plans_of(tiny)
    tracker = Tracker(settings, plans, store=store, uri=uri)
    with pytest.raises(type(error)), tracker.computing("pretrain", plans[0], resumed=False):
        raise error
    tracker.close()
    _, [run] = runs_of(client, settings)
    assert run.info.status == status
    assert run.data.tags["error"] == f"{type(error).__name__}: {error}"

    again = Tracker(settings, plans, store=store, uri=uri)
    with again.computing("pretrain", plans[0], resumed=False):
        entry = store_stage(store, "pretrain", plans[0])
    again.finished("pretrain", plans[0], entry, cached=False)
    _, [run] = runs_of(client, settings)
    assert run.info.status == "FINISHED"
    assert "error" not in run.data.tags
