"""Accidents in sweeps of real processes: what was done stays, what failed is named, results are equal."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient
from sweeping import ROOT, Sweeping, results, seconds, tiny_grid, wait_until

from analysis.runs import load_runs
from pipeline.graph import Graph
from pipeline.sweep_records import Asked
from pipeline.wanted import Wanted

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Sweeping:
    """A sweep that nobody disturbed, but for a tracking server that is not there."""
    sweeping = Sweeping(tmp_path_factory.mktemp("undisturbed") / "sweep", tiny_grid())
    said = sweeping.run(environment={"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"})
    assert said.count("computed in") == 11
    assert said.count("MLflow is not written to any more") == 1
    return sweeping


@pytest.fixture(scope="module")
def graph(undisturbed: Sweeping) -> Graph:
    return Wanted(Asked(grid=str(undisturbed.folder / "tiny.yaml"))).graph


def keys(graph: Graph, stage: str) -> list[str]:
    return [name.key for name in graph.nodes if name.stage == stage]


def orphans(sweeping: Sweeping) -> list[psutil.Process]:
    """Processes that a sweep of this folder has left."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("ACCIDENT_FOLDER", "").startswith(str(sweeping.folder)):
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_stages_that_raise_hang_die_or_find_no_space(
    undisturbed: Sweeping, graph: Graph, tmp_path: Path
) -> None:
    """What may pass is tried again; the rest is named with its log and skips what rests on it."""
    sweeping = Sweeping(tmp_path / "sweep", tiny_grid())
    attacks = [name for name, node in graph.nodes.items() if name.stage == "attack"]
    dense = [name.key for name in attacks if graph.nodes[name].plan.experiment.finetune is None]
    accidents = {
        f"killed={keys(graph, 'pretrain')[0]}/checkpoint": "died",
        f"full={keys(graph, 'pretrain')[1]}/history.json": "No space left on device",
        f"memory={keys(graph, 'distill')[0]}/layers.csv": "cannot allocate",
        f"raises={keys(graph, 'distill')[1]}/layers.csv": "a mistake in the code",
        f"hangs={dense[0]}/results.json": "time limit",
    }
    said = sweeping.run("--no-tracking", "--time-limit=15s", accidents=",".join(accidents), status=1)
    for text in accidents.values():
        assert text in said
    assert said.count("trying again") == 3
    failed = [line for line in said.splitlines() if line.startswith("failed: ")]
    assert len(failed) == 2
    skipped = {
        node.id for node in graph.nodes.values() if keys(graph, "distill")[1] in node.plan.keys.values()
    }
    skipped = {name for name in skipped if name.stage == "finetune"} | {
        name for name in skipped if name.stage == "attack" and name.key not in dense
    }
    failures = {("distill", keys(graph, "distill")[1]), ("attack", dense[0])}
    assert set(seconds(sweeping.store)) == set(graph.nodes) - failures - skipped
    logs = {line.strip() for line in said.splitlines() if line.strip().endswith(".log")}
    texts = "".join(Path(log).read_text() for log in logs)
    assert len(logs) == 2
    assert "RuntimeError: a mistake in the code" in texts  # with its traceback
    assert "Timeout (" in texts
    assert "sitecustomize.py" in texts  # where it hung

    before = seconds(sweeping.store)
    again = sweeping.run("--no-tracking", status=1)  # the same code would fail again
    assert again.count("failed before") == 1  # but for what may pass with another time limit
    assert seconds(sweeping.store).keys() - before.keys() == {("attack", dense[0])}
    stage, key = next(name for name in before if name[0] == "attack")
    damaged = sweeping.store.entry_path(stage, key) / "results.json"
    damaged.write_bytes(damaged.read_bytes().replace(b"1", b"2", 1))
    sweeping.run("--no-tracking", "--retry-failed")
    assert any("it is damaged" in log.read_text() for log in sweeping.logs(f"{stage}-{key[:12]}"))
    assert results(sweeping.store) == results(undisturbed.store)
    after = seconds(sweeping.store)
    assert {name for name in before if before[name] != after[name]} == {(stage, key)}


def test_an_early_end(graph: Graph, tmp_path: Path) -> None:
    """The time budget ends a sweep as incomplete; with --fail-fast the first failure ends it."""
    sweeping = Sweeping(tmp_path / "sweep", tiny_grid())
    said = sweeping.run("--no-tracking", "--budget=1s", status=3)
    assert "incomplete: the time budget is spent" in said
    assert "--resume" in said.splitlines()[-1]
    accident = f"raises={keys(graph, 'pretrain')[0]}/history.json"
    said = sweeping.run("--no-tracking", "--fail-fast", accidents=accident, status=1)
    assert said.count("failed: ") >= 1
    assert len(sweeping.store.names()) < len(graph.nodes)


def test_a_driver_that_is_killed_or_interrupted(undisturbed: Sweeping, graph: Graph, tmp_path: Path) -> None:
    """SIGKILL, Ctrl-C once and Ctrl-C twice, one after the other; the sweep goes on where it was."""
    sweeping = Sweeping(tmp_path / "sweep", tiny_grid())
    killed = sweeping.start("--no-tracking")
    wait_until(lambda: len(sweeping.store.names()) >= 2)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    wait_until(lambda: not orphans(sweeping))  # a worker ends its stage; nothing stays
    first = seconds(sweeping.store)
    assert len(first) < len(graph.nodes)

    once = sweeping.start("--no-tracking", "--resume", grid=False)
    wait_until(lambda: len(sweeping.store.names()) > len(first))
    once.send_signal(signal.SIGINT)
    said, _ = once.communicate(timeout=60)
    assert once.returncode == 130
    assert "stopping" in said
    assert "--resume" in said.splitlines()[-1]
    assert "Traceback" not in said
    wait_until(lambda: not orphans(sweeping))
    second = seconds(sweeping.store)

    logs = sweeping.logs()
    twice = sweeping.start("--no-tracking", "--resume", grid=False)
    wait_until(lambda: len(sweeping.logs()) > len(logs))  # a stage is under way
    twice.send_signal(signal.SIGINT)
    twice.send_signal(signal.SIGINT)
    twice.communicate(timeout=60)
    assert twice.returncode == 130
    wait_until(lambda: not orphans(sweeping))

    said = sweeping.run("--no-tracking", "--resume", grid=False)
    assert "going on with" in said
    assert results(sweeping.store) == results(undisturbed.store)
    last = seconds(sweeping.store)
    assert {name: last[name] for name in second} == second  # nothing finished was computed again
    assert {name: last[name] for name in first} == first


def test_what_the_tracker_missed_is_recorded_later(undisturbed: Sweeping, graph: Graph) -> None:
    """By the same command, or by `sync`, in one run for each stage and one for the sweep."""
    uri = f"sqlite:///{undisturbed.folder / 'mlflow.db'}"
    module = [sys.executable, "-m", "pipeline.tracking", "sync", "--grid", "tiny.yaml", "--tracking-uri", uri]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for _ in range(2):
        done = subprocess.run(
            module, cwd=undisturbed.folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
    runs = load_runs(uri, "test", stage=None)
    assert sorted(runs["key"]) == sorted(name.key for name in graph.nodes)
    assert set(runs["status"]) == {"FINISHED"}
    parents = MlflowClient(tracking_uri=uri).search_runs(["1"], "tags.kind = 'experiment'")
    assert [run.data.tags["grid"] for run in parents] == ["tiny"]
    assert [run.info.status for run in parents] == ["FINISHED"]
