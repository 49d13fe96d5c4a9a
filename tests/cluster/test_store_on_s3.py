"""The store on a server that speaks S3: what `tests/pipeline/test_remote_*.py` show on folders."""

import itertools
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from manifests import KEY, manifest
from remote_places import Machine, fill
from s3_server import S3Server
from tiny_experiment import TINY
from typer.testing import CliRunner

from pipeline import remote_store
from pipeline.attempt import Work
from pipeline.experiment import load_parameters
from pipeline.remote_files import RemoteStoreError
from pipeline.remote_store import RemoteStore
from pipeline.runner import plan
from pipeline.store import SCRATCH, Store, open_store
from pipeline.store_commands import app

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def machine(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A new machine at each call."""
    monkeypatch.setattr(remote_store, "CHECKPOINT_SHARE", math.inf)
    number = itertools.count()

    def start(lines: list[str] | None = None, **settings: Any) -> RemoteStore:
        report = (lambda line: None) if lines is None else lines.append
        cache = tmp_path / f"cache-{next(number)}"
        return RemoteStore(s3.url("shared/a/store"), report, cache=cache, **settings)

    return start


def names(s3: S3Server) -> list[str]:
    listed = s3.client().list_objects_v2(Bucket="shared")
    return sorted(found["Key"] for found in listed.get("Contents", ()) if not found["Key"].endswith("/"))


def test_what_one_machine_finishes_another_one_has(s3: S3Server, machine: Machine) -> None:
    first, second = machine(), machine()
    assert not second.contains("pretrain", KEY)
    entry = fill(first)
    second.refresh()
    assert second.contains("pretrain", KEY)
    assert second.manifest("pretrain", KEY) == entry.manifest
    found = second.find("pretrain", KEY)
    assert found is not None
    assert found.manifest == entry.manifest
    folder = f"a/store/pretrain/{KEY}"
    files = f"{folder}/{entry.manifest.checksum[:16]}"
    assert set(names(s3)) == {
        "a/store/nenni-store.json",
        f"{folder}/manifest.json",
        *(f"{files}/{name}" for name in entry.manifest.files),
    }
    first.discard("pretrain", KEY)
    assert names(s3) == ["a/store/nenni-store.json"]


def test_a_file_in_several_parts_arrives_whole(machine: Machine) -> None:
    store = machine()
    out = store.begin("pretrain", KEY)
    content = bytes(range(256)) * (12 * 4096) + b"odd"  # above 10 MB: a multipart upload
    (out / "model.bin").write_bytes(content)
    store.commit(manifest())
    found = machine().find("pretrain", KEY)
    assert found is not None
    assert (found.path / "model.bin").read_bytes() == content


def test_a_flipped_byte_is_found_and_computed_again(s3: S3Server, machine: Machine) -> None:
    fill(machine())
    client = s3.client()
    [name] = [name for name in names(s3) if name.endswith("model.bin")]
    content = bytearray(client.get_object(Bucket="shared", Key=name)["Body"].read())
    content[100] ^= 1
    client.put_object(Bucket="shared", Key=name, Body=bytes(content))
    lines: list[str] = []
    store = machine(lines)
    assert store.find("pretrain", KEY) is None
    assert store.recover("pretrain", KEY) is None
    assert "model.bin is not what was written" in lines[0]
    assert names(s3) == ["a/store/nenni-store.json"]
    fill(store)
    assert machine().find("pretrain", KEY) is not None


def test_a_checkpoint_moves_to_another_machine(s3: S3Server, machine: Machine) -> None:
    lost, other = machine(checkpoint_seconds=0.0), machine()
    work = Work.begin(lost, "pretrain", KEY, {"prepare": "f" * 64})
    (work.out / SCRATCH / "epoch.bin").write_bytes(b"half way")
    lost.save_checkpoint("pretrain", KEY)
    assert other.unfinished() == [("pretrain", KEY)]
    continued = Work.begin(other, "pretrain", KEY, {"prepare": "f" * 64})
    assert continued.resumed
    assert (continued.out / SCRATCH / "epoch.bin").read_bytes() == b"half way"
    fill(other)
    assert not any("/.partial/" in name for name in names(s3))


def test_a_server_that_is_killed_costs_seconds_and_nothing_that_was_computed(
    s3: S3Server, machine: Machine
) -> None:
    lines: list[str] = []
    store = machine(lines, checkpoint_seconds=0.0)
    Work.begin(store, "pretrain", KEY, {"prepare": "f" * 64})
    s3.kill()
    begun = time.monotonic()
    store.save_checkpoint("pretrain", KEY)
    with pytest.raises(RemoteStoreError, match="does not answer"):
        fill(store)
    assert time.monotonic() - begun < 60
    assert len(lines) == 1  # of the checkpoint
    s3.start()
    s3.client().create_bucket(Bucket="shared")
    assert machine().find("pretrain", KEY) is None
    assert store.recover("pretrain", KEY) is not None
    assert machine().find("pretrain", KEY) is not None


@pytest.mark.parametrize("mistake", ["no bucket", "refused"])
def test_what_the_server_refuses_is_one_line(s3: S3Server, mistake: str) -> None:
    if mistake == "refused":
        s3.ask_for_keys(True)
    url = s3.url("elsewhere/store" if mistake == "no bucket" else "shared/store")
    result = CliRunner().invoke(app, ["ls", "--store", url])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    expected = "there is no such bucket" if mistake == "no bucket" else "access is refused"
    assert f"cannot look into it: {expected}" in result.stderr
    assert "geheim" not in result.output


def test_the_environment_may_name_the_server(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.address)
    monkeypatch.setenv("NENNI_STORE_CACHE", str(tmp_path))
    store = open_store("s3://shared/plain")
    fill(store)
    assert store.names() == [("pretrain", KEY)]
    assert all(name.startswith("plain/") for name in names(s3))


def test_machines_compute_an_experiment_once_and_as_one_alone(s3: S3Server, tmp_path: Path) -> None:
    """Real stages in processes of their own; each has its own working directory, so its own cache."""
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(TINY | {"store": s3.url("shared/sweep")}))

    def start(machine: str, *more: str) -> "subprocess.Popen[str]":
        folder = tmp_path / machine
        folder.mkdir()
        command = [sys.executable, "-m", "pipeline.stages.attack", "--params", str(tmp_path / "params.yaml")]
        command += ["--no-tracking", "--threads=1", "--device=cpu", *more]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        return subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)

    def finish(process: "subprocess.Popen[str]") -> str:
        said = process.communicate(timeout=250)[1]
        assert process.returncode == 0, said
        return said

    assert finish(start("first")).count("computed in") == 6
    said = finish(start("second"))
    assert "computed in" not in said
    assert said.count("already there") == 2  # both attacks; of what is before them nothing is said
    finish(start("alone", "--store", "store"))
    shared, alone = open_store(s3.url("shared/sweep")), Store(tmp_path / "alone" / "store")
    assert shared.names() == alone.names()
    plans = plan(load_parameters(tmp_path / "params.yaml").experiments())
    for stage, key in {pair for planned in plans for pair in planned.keys.items()}:
        manifests = [store.manifest(stage, key) for store in (shared, alone)]
        assert manifests[0] is not None
        assert manifests[1] is not None
        assert manifests[0].digest == manifests[1].digest, stage
