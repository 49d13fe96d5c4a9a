"""A sweep on a Ray cluster with everything that docs/cluster.md sets up, all of it on this machine."""

import secrets
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from s3_server import S3Server
from servers import PostgresServer, RayNodes, TrackingServer, postgres_program, wait_for
from sweeping import Sweeping, results, tiny_grid

from pipeline.store import open_store

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


def larger_grid() -> dict[str, Any]:
    """Six seeds with pre-trainings that take some seconds."""
    content = tiny_grid()
    content["axes"]["seed"] = list(range(6))
    content["pretrain"]["epochs"] = 12
    return content


@pytest.fixture
def nodes(s3: S3Server, tmp_path: Path, free_port: Callable[[], int]) -> Iterator[RayNodes]:
    """A head and two machines that share a secret. Ray's sockets need a short path."""
    mark = secrets.token_hex(8)
    environment = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "NENNI_TEST_CLUSTER": mark,
        "NENNI_STORE_CACHE": str(tmp_path / "caches"),
        "OMP_NUM_THREADS": "1",
    }
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        cluster = RayNodes(Path(folder), free_port(), environment)
        try:
            cluster.start(machines=2)
            yield cluster
        finally:
            cluster.stop()


@pytest.fixture
def server(s3: S3Server, tmp_path: Path, free_port: Callable[[], int]) -> Iterator[TrackingServer]:
    """MLflow on PostgreSQL and S3."""
    if postgres_program("initdb") is None:
        pytest.skip("PostgreSQL's programs are not installed (on Debian and Ubuntu: postgresql)")
    with tempfile.TemporaryDirectory(prefix="pg-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        database = PostgresServer(Path(folder) / "postgres", free_port())
        database.start()
        environment = {"MLFLOW_S3_ENDPOINT_URL": s3.address, "AWS_DEFAULT_REGION": "us-east-1"}
        tracking = TrackingServer(database.url, "s3://shared/mlflow", free_port(), environment, tmp_path)
        tracking.start()
        try:
            yield tracking
        finally:
            tracking.kill()
            database.stop()


def test_a_sweep_survives_the_loss_of_a_machine_and_of_the_tracking_server(
    s3: S3Server,
    nodes: RayNodes,
    server: TrackingServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NENNI_STORE_CACHE", str(tmp_path / "own-cache"))
    content = larger_grid()
    alone = Sweeping(tmp_path / "alone", content)
    alone.run("--no-tracking")

    sweeping = Sweeping(tmp_path / "together", content)
    location = s3.url("shared/store")
    # the driver's machine has a cache of its own
    own = {"NENNI_STORE_CACHE": str(tmp_path / "cache-of-the-driver")}
    environment = nodes.environment | own | {"MLFLOW_TRACKING_URI": server.url}
    options = ["--address", nodes.address, "--store", location, "--retries=2"]
    process = sweeping.start(*options, environment=environment, cores=None)
    store = open_store(location)

    def finished() -> int:
        store.refresh()
        return len(store.names())

    try:
        wait_for(lambda: finished() >= 3 or process.poll() is not None, "nothing is computed", seconds=200)
        nodes.kill(1)
        wait_for(
            lambda: finished() >= 8 or process.poll() is not None, "it stopped with the machine", seconds=200
        )
        nodes.add_machine()
        server.kill()
        said, _ = process.communicate(timeout=400)
    finally:
        process.kill()
    assert process.returncode == 0, said
    assert "its process died" in said
    assert "MLflow is not written to any more" in said
    store.refresh()
    assert results(store) == results(alone.store)

    server.start()
    said = sweeping.run(*options, environment=environment, cores=None)
    assert "computed in" not in said
    assert tracked(server, "test") == {key for _, key in store.names()}


def test_stages_share_a_gpu(nodes: RayNodes, tmp_path: Path) -> None:
    """One for a pre-training, halves for what follows; no more is given than there is."""
    nodes.add_machine(cpus=2, gpus=1)
    sweeping = Sweeping(tmp_path / "sweep", tiny_grid())
    options = ["--address", nodes.address, "--no-tracking"]
    sweeping.run(*options, environment=nodes.environment, cores=None)
    begun = [log.read_text().splitlines()[0] for log in sweeping.logs()]
    assert len(begun) == len(sweeping.store.names()) == 11
    spans = {stage: spans_of(sweeping, stage) for stage in ("pretrain", "finetune", "attack")}
    assert most_at_a_time(spans["pretrain"]) == 1
    assert most_at_a_time(spans["finetune"] + spans["attack"]) <= 2


def spans_of(sweeping: Sweeping, stage: str) -> list[tuple[float, float]]:
    """From when to when each stage of a kind was computed, by its manifest."""
    found = []
    for kind, key in sweeping.store.names():
        manifest = sweeping.store.manifest(kind, key)
        if kind == stage and manifest is not None:
            end = (sweeping.store.entry_path(kind, key) / "manifest.json").stat().st_mtime
            found.append((end - manifest.seconds, end))
    return found


def most_at_a_time(spans: list[tuple[float, float]]) -> int:
    return max(sum(one[0] <= start < one[1] for one in spans) for start, _ in spans)


def tracked(server: TrackingServer, experiment: str) -> set[str]:
    """The keys of the stages whose runs are finished, with files on S3."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=server.url)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    runs = client.search_runs([found.experiment_id], "tags.kind = 'stage'", max_results=1000)
    assert all(run.info.status == "FINISHED" for run in runs)
    files = client.list_artifacts(runs[0].info.run_id)
    assert "metrics.json" in {file.path for file in files}
    assert runs[0].info.artifact_uri.startswith("mlflow-artifacts:/")
    return {run.data.tags["key"] for run in runs}


def test_what_no_machine_has_is_refused(nodes: RayNodes, tmp_path: Path) -> None:
    sweeping = Sweeping(tmp_path / "sweep", tiny_grid())
    options = ["--address", nodes.address, "--no-tracking", "--resources", "pretrain=cpus:1,gpus:1"]
    said = sweeping.run(*options, environment=nodes.environment, cores=None, status=2)
    [line] = [line for line in said.splitlines() if line.startswith("error: ")]
    assert "'pretrain' asks for 1 CPU, 1 GPU" in line
    wrong = nodes.environment | {"RAY_AUTH_TOKEN": secrets.token_hex(32)}
    said = sweeping.run("--address", nodes.address, "--no-tracking", environment=wrong, cores=None, status=2)
    assert "no Ray cluster answers there" in said
