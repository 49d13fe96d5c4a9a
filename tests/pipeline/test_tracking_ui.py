"""What `mlflow server` shows of a tracked set, asked over HTTP as the user interface asks."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from stored_stages import EPOCHS, store_set
from tiny_experiment import TINY

from pipeline.config import Tracking
from pipeline.tracking import PARENT, Tracker

pytestmark = pytest.mark.slow

LOG = "server.log"


class Server:
    """A running server."""

    def __init__(self, address: str) -> None:
        self.address = address

    def get(self, path: str, /, **query: str) -> Any:
        address = f"{self.address}{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(address, timeout=60) as answer:
            content = answer.read()
        return json.loads(content) if path.startswith("/api") else content.decode()

    def post(self, path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            f"{self.address}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`mlflow server` over the database that a tracked set has left."""
    folder = tmp_path_factory.mktemp("ui")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    store, plans = store_set(folder / "store", TINY)
    tracker = Tracker(Tracking(experiment="demo"), plans, store=store, uri=uri)
    for planned in plans:
        for stage in planned.experiment.stages:
            entry = store.find(stage, planned.keys[stage])
            assert entry is not None
            tracker.finished(stage, planned, entry, cached=True)
    tracker.close()
    assert not tracker.has_failed

    for _ in range(3):
        process, server = _started(folder, uri)
        try:
            if not _is_healthy(server, process):
                continue  # something else has taken the port since it was found free
            yield server
            return
        finally:
            _stop(process)
    pytest.fail(f"no answer from the server: {(folder / LOG).read_text()}")


def _started(folder: Path, uri: str) -> "tuple[subprocess.Popen[bytes], Server]":
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    command += ["--artifacts-destination", str(folder / "mlartifacts")]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    # job execution off: it starts a process per kind of job that this project never has
    environment = os.environ | {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
    }
    with (folder / LOG).open("a") as output:
        process = subprocess.Popen(
            command, env=environment, cwd=folder, stdout=output, stderr=output, start_new_session=True
        )
    return process, Server(f"http://127.0.0.1:{port}")


def _is_healthy(server: Server, process: "subprocess.Popen[bytes]") -> bool:
    """Wait until the server answers; False if its process ends before that."""
    for _ in range(600):
        if process.poll() is not None:
            return False
        try:
            return bool(server.get("/health") == "OK")
        except OSError:
            time.sleep(0.2)
    return False


def _stop(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def runs(server: Server) -> list[dict[str, Any]]:
    """All runs of the experiment `demo`, tags, parameters and metrics as mappings."""
    experiment = server.get("/api/2.0/mlflow/experiments/get-by-name", experiment_name="demo")["experiment"]
    found = server.post("/api/2.0/mlflow/runs/search", {"experiment_ids": [experiment["experiment_id"]]})
    for run in found["runs"]:
        for kind in ("tags", "params", "metrics"):
            run[kind] = {item["key"]: item["value"] for item in run["data"].get(kind, [])}
    return found["runs"]


def child(runs: list[dict[str, Any]], stage: str) -> dict[str, Any]:
    return next(run for run in runs if run["tags"].get("stage") == stage)


def test_the_page_is_there(server: Server) -> None:
    assert '<div id="root"' in server.get("/")


def test_parent_and_children_are_shown(runs: list[dict[str, Any]]) -> None:
    [parent] = [run for run in runs if PARENT not in run["tags"]]
    assert parent["tags"]["kind"] == "experiment"
    assert parent["info"]["run_name"] == "small_resnet on synthetic, seed 0"
    children = [run for run in runs if run["tags"].get(PARENT) == parent["info"]["run_id"]]
    assert len(children) == len(runs) - 1 == 6
    assert {run["info"]["status"] for run in runs} == {"FINISHED"}
    names = {run["info"]["run_name"] for run in children}
    assert {"prepare synthetic", "attack dense", "attack ratio-0.9-clean"} <= names


def test_numbers_are_shown(runs: list[dict[str, Any]]) -> None:
    attack = child(runs, "attack")
    assert attack["metrics"]["accuracy/fgsm"] == 0.25
    assert attack["params"]["attacks.fgsm.eps"] == "8/255"


def test_learning_curves_are_shown(server: Server, runs: list[dict[str, Any]]) -> None:
    history = server.get(
        "/api/2.0/mlflow/metrics/get-history",
        run_id=child(runs, "pretrain")["info"]["run_id"],
        metric_key="train_loss",
    )["metrics"]
    assert [(point["step"], point["value"]) for point in history] == [(i, 2.0 - i) for i in range(EPOCHS)]


def test_data_sets_are_shown(runs: list[dict[str, Any]]) -> None:
    [data] = child(runs, "pretrain")["inputs"]["dataset_inputs"]
    assert data["dataset"]["name"] == "synthetic"


def test_files_can_be_listed_and_read(server: Server, runs: list[dict[str, Any]]) -> None:
    run_id = child(runs, "pretrain")["info"]["run_id"]
    listed = server.get("/api/2.0/mlflow/artifacts/list", run_id=run_id)["files"]
    assert {file["path"] for file in listed} >= {"manifest.json", "metrics.json", "history.json"}
    manifest = json.loads(server.get("/get-artifact", path="manifest.json", run_uuid=run_id))
    assert manifest["stage"] == "pretrain"
