"""Where the store and the runs are: command line before environment before parameter file."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from stored_stages import plans_of, store_set
from typer.testing import CliRunner

from nenni_core.errors import InputError
from pipeline import tracking, tracking_commands
from pipeline.config import Tracking
from pipeline.experiment import ExperimentSet
from pipeline.locations import store_location, tracking_location
from pipeline.stages.command import stage_app
from pipeline.store_commands import app as store_app
from pipeline.tracking import Tracker

WHERE = {
    store_location: ("NENNI_STORE", "store"),
    tracking_location: ("MLFLOW_TRACKING_URI", "sqlite:///{here}/mlflow.db"),
}


@pytest.mark.parametrize("decide", WHERE)
def test_the_first_that_is_said_counts(decide: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variable, default = WHERE[decide]
    monkeypatch.chdir(tmp_path)
    for option, environment, parameter in itertools.product(
        [None, "option"], [None, "", "env"], [None, "file"]
    ):
        if environment is None:
            monkeypatch.delenv(variable, raising=False)
        else:
            monkeypatch.setenv(variable, environment)
        expected = option or environment or parameter or default.format(here=tmp_path)
        assert decide(option, parameter) == expected


def test_no_password_is_read_from_a_file_that_others_read(monkeypatch: pytest.MonkeyPatch) -> None:
    uri = "postgresql://someone:geheim@db.example.org/mlflow"
    with pytest.raises(InputError, match="credentials") as caught:
        tracking_location(None, uri)
    assert "geheim" not in str(caught.value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)  # that is what the environment is for
    assert tracking_location() == uri


def test_where_things_are_is_in_no_key(tiny: dict[str, Any]) -> None:
    before = [planned.keys for planned in plans_of(tiny)]
    tiny["store"] = "s3://bucket/elsewhere"
    tiny["tracking"]["uri"] = "http://127.0.0.1:5000"
    assert [planned.keys for planned in plans_of(tiny)] == before
    assert ExperimentSet.model_validate(tiny).store == "s3://bucket/elsewhere"


def test_the_tracker_goes_where_the_settings_say(
    tmp_path: Path, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    asked: list[str] = []

    def connect(uri: str) -> None:
        asked.append(uri)
        raise ConnectionError

    monkeypatch.setattr(tracking, "connect", connect)
    store, plans = store_set(tmp_path, tiny)
    for option in (None, "http://127.0.0.1:2"):
        settings = Tracking(uri="http://127.0.0.1:1")
        Tracker(settings, plans, store=store, report=lambda line: None, uri=option).close()
    assert asked == ["http://127.0.0.1:1", "http://127.0.0.1:2"]


@pytest.mark.parametrize("how", ["option", "environment", "parameter"])
def test_every_command_finds_the_store(
    how: str, tmp_path: Path, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NENNI_STORE", raising=False)
    monkeypatch.setattr(tracking, "connect", lambda uri: 1 / 0)  # MLflow takes seconds and is not the point
    store, plans = store_set(tmp_path / "elsewhere", tiny)
    arguments = {"option": ["--store", "elsewhere"], "environment": [], "parameter": []}[how]
    if how == "environment":
        monkeypatch.setenv("NENNI_STORE", "elsewhere")
    if how == "parameter":
        tiny["store"] = "elsewhere"
    tiny["tracking"]["experiment"] = f"found by {how}"
    Path("params.yaml").write_text(json.dumps(tiny))
    runner = CliRunner()
    arguments = ["--params", "params.yaml", *arguments]
    verified = runner.invoke(store_app, ["verify", *arguments])
    assert (verified.exit_code, verified.stderr) == (0, "6 of 6 entries are as they were written\n")
    listed = runner.invoke(store_app, ["ls", *arguments])
    assert all(key[:12] in listed.stdout for _, key in store.names())
    kept = runner.invoke(store_app, ["gc", *arguments])
    assert (kept.exit_code, kept.stderr) == (0, "")
    computed = runner.invoke(stage_app("prepare"), [*arguments, "--no-tracking", "--device", "cpu"])
    assert computed.exit_code == 0, computed.output
    assert f"prepare synthetic {plans[0].keys['prepare'][:12]}: already there" in computed.stderr
    synced = runner.invoke(tracking_commands.app, ["sync", *arguments])
    assert "ZeroDivisionError" in synced.stderr
    assert "not in the store" not in synced.stderr
    assert not Path("store").exists()


def test_files_that_name_different_stores_are_no_way_to_tidy_one(
    tmp_path: Path, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NENNI_STORE", raising=False)
    arguments = ["gc"]
    for name in ("one", "two"):
        tiny["store"] = name
        (tmp_path / f"{name}.yaml").write_text(json.dumps(tiny))
        arguments += ["--params", str(tmp_path / f"{name}.yaml")]
    result = CliRunner().invoke(store_app, arguments)
    assert result.exit_code == 2
    assert result.stderr == (
        "error: the parameter files name different stores (one, two); choose one with --store\n"
    )
