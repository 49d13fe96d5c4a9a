"""What MLflow is told: everything once, whatever happens in between; and never at the cost of a stage."""

import json
import sqlite3
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from stored_stages import EPOCHS, plans_of, store_set, store_stage
from tracked_runs import all_runs, history, runs_of, track
from typer.testing import CliRunner

from nenni_core.defenses import make_defense
from pipeline import tracking_commands
from pipeline.config import Tracking
from pipeline.run_tags import flatten
from pipeline.store import Store
from pipeline.tracking import PARENT, Tracker, experiment_key


def test_a_set_becomes_a_parent_with_a_child_per_stage_instance(
    tmp_path: Path, tiny: dict[str, Any], settings: Tracking, uri: str, client: MlflowClient
) -> None:
    tiny["finetune"]["ratio"] = [0.5, 0.9]
    store, plans = store_set(tmp_path, tiny)
    assert track(store, plans, settings, uri) == []
    [parent], children = runs_of(client, settings)
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["kind"] == "experiment"
    assert parent.data.tags["source"] == "dvc"
    assert parent.data.tags["experiment_key"] == experiment_key(plans)
    by_stage: dict[str, list[Run]] = {}
    for child in children:
        assert child.data.tags[PARENT] == parent.info.run_id
        assert child.data.tags["cached"] == "true"
        assert child.info.status == "FINISHED"
        by_stage.setdefault(child.data.tags["stage"], []).append(child)
    counts = {stage: len(runs) for stage, runs in by_stage.items()}
    assert counts == {"prepare": 1, "pretrain": 1, "distill": 1, "finetune": 2, "attack": 3}

    attacks = {run.data.tags["variant"]: run for run in by_stage["attack"]}
    assert set(attacks) == {"dense", "ratio-0.5-clean", "ratio-0.9-clean"}
    tags = attacks["ratio-0.9-clean"].data.tags
    expected = {
        "model": "small_resnet",
        "dataset": "synthetic",
        "defence": "noise_injection",
        "ratio": "0.9",
        "pattern": "",
        "layer_ratios": "",
        "objective": "clean",
        "target": "non_essential",
        "randomize": "fixed",
        "selection": "top_k",
        "score": "magnitude",
        "bits": "4",
        "projection_ratio": "0.25",
        "trained_by": "adversarial",
        "random": "false",
        "ensemble": "1",
        "pretrain_epochs": "2",
        "device": "cpu",
        "threads": "1",
        "seed": "0",
        "git_commit": "d" * 40,
        "git_dirty": "false",
        "data_fingerprint": plans[0].data_fingerprint,
        "images": "12",
        "key": plans[2].keys["attack"],
    }
    assert {name: tags.get(name) for name in expected} == expected
    settings = {"kind": "adversarial"} | asdict(make_defense("adversarial"))
    assert json.loads(tags["trained_by_settings"]) == settings
    assert json.loads(tags["upstream_keys"]) == plans[2].upstream_keys("attack")
    dense = attacks["dense"].data.tags
    assert (dense["defence"], dense["ratio"], dense["objective"]) == ("dense", "", "")
    metrics = attacks["dense"].data.metrics
    assert metrics["accuracy/fgsm"] == 0.25
    assert metrics["seconds/fgsm"] == 1.25
    assert metrics["seconds"] == 1.5
    assert attacks["dense"].data.params["attacks.fgsm.eps"] == "8/255"
    assert attacks["dense"].data.params["images"] == "12"


def test_runs_carry_curves_data_and_files_but_no_weights(
    tmp_path: Path, tiny: dict[str, Any], settings: Tracking, uri: str, client: MlflowClient
) -> None:
    store, plans = store_set(tmp_path, tiny)
    track(store, plans, settings, uri)
    _, children = runs_of(client, settings)
    [pretrain] = [run for run in children if run.data.tags["stage"] == "pretrain"]
    assert history(client, pretrain) == [(0, 2.0), (1, 1.0), (2, 0.0)]
    assert len(history(client, pretrain, "seconds/epoch")) == EPOCHS
    [data] = pretrain.inputs.dataset_inputs
    assert data.dataset.name == "synthetic"
    tags = {tag.key: tag.value for tag in data.tags}
    assert tags["sha256"] == plans[0].data_fingerprint
    assert tags["sha256.train_images"] == "f" * 64
    files = {file.path for file in client.list_artifacts(pretrain.info.run_id)}
    assert files == {"history.json", "timing.json", "manifest.json", "metrics.json"}
    weights = json.loads(pretrain.data.tags["weights_sha256"])
    entry = store.find("pretrain", plans[0].keys["pretrain"])
    assert entry is not None
    assert weights == {"model.safetensors": entry.manifest.files["model.safetensors"].sha256}
    # beside the database, not where the test happens to run
    database = Path(uri.removeprefix("sqlite:///"))
    assert (database.parent / "mlartifacts" / pretrain.info.run_id / "artifacts" / "manifest.json").is_file()


def test_tracking_twice_adds_nothing(
    tmp_path: Path, tiny: dict[str, Any], settings: Tracking, uri: str, client: MlflowClient
) -> None:
    store, plans = store_set(tmp_path, tiny)
    track(store, plans, settings, uri)
    before = {run.info.run_id: run for run in all_runs(client, settings)}
    [parent], _ = runs_of(client, settings)
    track(store, plans, settings, uri)
    after = {run.info.run_id: run for run in all_runs(client, settings)}
    assert before.keys() == after.keys()
    used = [int(runs[parent.info.run_id].data.tags["last_used_ms"]) for runs in (before, after)]
    assert used[0] < used[1]
    for run_id, run in before.items():
        assert run.data.metrics == after[run_id].data.metrics
        assert history(client, run) == history(client, after[run_id])
        assert run.info.end_time == after[run_id].info.end_time


def test_sets_with_shared_stages_have_complete_tables_each(
    tmp_path: Path, tiny: dict[str, Any], settings: Tracking, uri: str, client: MlflowClient
) -> None:
    store, plans = store_set(tmp_path, tiny)
    track(store, plans, settings, uri)
    tiny["finetune"]["ratio"] = 0.5
    other_store, other_plans = store_set(tmp_path, tiny)
    track(other_store, other_plans, settings, uri)
    parents, children = runs_of(client, settings)
    assert len(parents) == 2
    for parent in parents:
        stages = sorted(
            run.data.tags["stage"] for run in children if run.data.tags[PARENT] == parent.info.run_id
        )
        assert stages == ["attack", "attack", "distill", "finetune", "prepare", "pretrain"]


def test_a_server_that_is_down_costs_one_line_and_no_result(
    tmp_path: Path, tiny: dict[str, Any], settings: Tracking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    lines: list[str] = []
    store, plans = Store(tmp_path), plans_of(tiny)
    tracker = Tracker(settings, plans, store=store, report=lines.append, uri="http://127.0.0.1:9")
    with tracker.computing("pretrain", plans[0], resumed=False) as on_record:
        on_record({"train_loss": 1.0}, 0)
        entry = store_stage(store, "pretrain", plans[0])
    tracker.finished("pretrain", plans[0], entry, cached=False)
    tracker.close()
    [line] = lines
    assert "\n" not in line
    assert "python -m pipeline.tracking sync" in line
    assert tracker.has_failed


def test_a_database_that_breaks_midway_costs_one_line_and_no_result(
    tmp_path: Path, tiny: dict[str, Any], settings: Tracking, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    store, plans = Store(tmp_path), plans_of(tiny)
    tracker = Tracker(settings, plans, store=store, report=lines.append, uri=uri)
    with tracker.computing("pretrain", plans[0], resumed=False) as on_record:
        with monkeypatch.context() as patch:
            patch.setattr(MlflowClient, "log_batch", lambda *a, **k: 1 / 0)
            on_record({"train_loss": 1.0}, 0)
        on_record({"train_loss": 0.5}, 1)
        entry = store_stage(store, "pretrain", plans[0])
    tracker.finished("pretrain", plans[0], entry, cached=False)
    [line] = lines
    assert "ZeroDivisionError" in line


def test_a_database_that_was_copied_is_not_written_to(
    tmp_path: Path, tiny: dict[str, Any], settings: Tracking, uri: str
) -> None:
    """Its runs' files have absolute paths: the copy would write into the original."""
    store, plans = store_set(tmp_path / "store", tiny)
    assert track(store, plans, settings, uri) == []
    copied = tmp_path / "elsewhere" / "mlflow.db"
    copied.parent.mkdir()
    with (
        closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as source,
        closing(sqlite3.connect(copied)) as to,
    ):
        source.backup(to)
    [line] = track(store, plans, settings, f"sqlite:///{copied}")
    assert "mlflow.db was copied or moved here" in line


def test_the_database_lets_readers_pass(uri: str, client: MlflowClient) -> None:
    client.search_experiments()
    with closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_system_metrics_are_sampled_where_asked_for(
    tmp_path: Path,
    tiny: dict[str, Any],
    settings: Tracking,
    uri: str,
    client: MlflowClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    settings = settings.model_copy(update={"system_metrics": ("pretrain",)})
    store, plans = Store(tmp_path), plans_of(tiny)
    tracker = Tracker(settings, plans, store=store, uri=uri)
    for stage in ("prepare", "pretrain"):
        with tracker.computing(stage, plans[0], resumed=False):
            entry = store_stage(store, stage, plans[0])
            if stage == "pretrain":
                _wait_for_sample(client, settings)
        tracker.finished(stage, plans[0], entry, cached=False)
    _, children = runs_of(client, settings)
    for run in children:
        sampled = any(name.startswith("system/") for name in run.data.metrics)
        assert sampled == (run.data.tags["stage"] == "pretrain")


def _wait_for_sample(client: MlflowClient, settings: Tracking) -> None:
    import time

    for _ in range(200):
        _, children = runs_of(client, settings)
        if any(name.startswith("system/") for run in children for name in run.data.metrics):
            return
        time.sleep(0.05)


@pytest.fixture
def command(uri: str, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return CliRunner()


def test_sync_records_what_is_in_the_store(
    tmp_path: Path, tiny: dict[str, Any], settings: Tracking, client: MlflowClient, command: CliRunner
) -> None:
    tiny["tracking"] = {"experiment": settings.experiment}
    parameters = tmp_path / "params.yaml"
    parameters.write_text(json.dumps(tiny))
    plans = plans_of(tiny)
    store = Store(tmp_path / "store")
    for stage in ("prepare", "pretrain"):
        store_stage(store, stage, plans[0])
    arguments = ["sync", "--params", str(parameters), "--store", str(tmp_path / "store")]
    result = command.invoke(tracking_commands.app, arguments)
    assert result.exit_code == 0, result.output
    assert "not in the store: attack dense" in result.output
    assert "not in the store: distill small_resnet on synthetic" in result.output
    [parent], children = runs_of(client, settings)
    assert sorted(run.data.tags["stage"] for run in children) == ["prepare", "pretrain"]
    assert parent.info.status == "RUNNING"

    store_set(tmp_path / "store", tiny)
    result = command.invoke(tracking_commands.app, arguments)
    assert result.exit_code == 0, result.output
    assert "not in the store" not in result.output
    [parent], children = runs_of(client, settings)
    assert len(children) == 6
    assert parent.info.status == "FINISHED"


def test_sync_says_when_the_server_is_down(
    tmp_path: Path, tiny: dict[str, Any], command: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    parameters = tmp_path / "params.yaml"
    parameters.write_text(json.dumps(tiny))
    store_set(tmp_path / "store", tiny)
    result = command.invoke(
        tracking_commands.app, ["sync", "--params", str(parameters), "--store", str(tmp_path / "store")]
    )
    assert result.exit_code == 1
    assert result.output.count("warning: ") == 1


def test_configuration_is_flattened_with_dots() -> None:
    assert flatten({"a": {"b": "8/255", "c": [1, 2]}, "d": None, "e": 0.9, "f": True}) == {
        "a.b": "8/255",
        "a.c": "[1, 2]",
        "d": "null",
        "e": "0.9",
        "f": "true",
    }
