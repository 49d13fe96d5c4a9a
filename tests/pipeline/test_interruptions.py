"""Real processes, killed with SIGKILL in the middle of every stage, must not be seen in the results."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from stored_stages import plans_of

from pipeline.experiment import STAGES
from pipeline.runner import Plan
from pipeline.store import SCRATCH, TIMING, CorruptEntryError, Store, read_entry

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]

# What a stage leaves in its unfinished folder when it is well under way; the others only have the folder.
PROGRESS = {
    "pretrain": f"{SCRATCH}/cpu/epoch-00002.safetensors",
    "finetune": f"{SCRATCH}/cpu/epoch-00001.safetensors",
    "attack": f"{SCRATCH}/clean.safetensors",
}


def start(folder: Path, store: str) -> "subprocess.Popen[str]":
    """The command of the last stage, which computes all before it too."""
    command = [sys.executable, "-m", "pipeline.stages.attack", "--params", "params.yaml"]
    command += [f"--{name}={folder / store / name}" for name in ("outputs", "metrics", "plots", "store")]
    command += ["--threads=1", "--device=cpu", "--no-tracking"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)


def finish(process: "subprocess.Popen[str]") -> str:
    """Wait for success; returns what it said."""
    _, said = process.communicate(timeout=200)
    assert process.returncode == 0, said
    return said


def kill_in(stage: str, key: str, process: "subprocess.Popen[str]", store: Store) -> bool:
    """Kill the process when `stage` is under way; whether it was caught before the stage was finished."""
    partial, final = store.partial_path(stage, key), store.entry_path(stage, key)
    progress = partial / PROGRESS.get(stage, "")
    while not progress.exists() and not final.exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.0005)
    process.kill()
    process.communicate()
    return partial.exists()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A parameter file with enough epochs to be interrupted in."""
    from tiny_experiment import TINY

    content: dict[str, Any] = json.loads(json.dumps(TINY))
    content["pretrain"] |= {"epochs": 6}
    content["distill"] |= {"solver": "sgd", "epochs": 20}
    content["finetune"] |= {"epochs": 4, "dense": False, "objective": "adversarial"}
    content["attack"]["attacks"]["pgd20_straight_through"]["steps"] = 20
    path = tmp_path_factory.mktemp("interruptions")
    (path / "params.yaml").write_text(json.dumps(content))
    return path


@pytest.fixture(scope="module")
def planned(folder: Path) -> Plan:
    [only] = plans_of(json.loads((folder / "params.yaml").read_text()))
    return only


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> Store:
    """A store filled by a process that nobody disturbed."""
    finish(start(folder, "undisturbed"))
    return Store(folder / "undisturbed" / "store")


def same_results(first: Store, second: Store, planned: Plan) -> None:
    """Equal bytes of all results, and equal metrics for DVC."""
    for stage, key in planned.keys.items():
        one, two = read_entry(first.entry_path(stage, key)), read_entry(second.entry_path(stage, key))
        files = [{n: r for n, r in e.manifest.files.items() if n != TIMING} for e in (one, two)]
        assert files[0] == files[1], stage
        assert one.metrics == two.metrics, stage
        assert one.manifest.digest == two.manifest.digest
    metrics = [(store.root.parent / "metrics" / "attack.json").read_bytes() for store in (first, second)]
    assert metrics[0] == metrics[1]


def test_killed_in_every_stage(folder: Path, planned: Plan, undisturbed: Store) -> None:
    store = Store(folder / "killed" / "store")
    caught = {}
    for stage in STAGES:
        caught[stage] = kill_in(stage, planned.keys[stage], start(folder, "killed"), store)
        # whoever reads now sees finished entries only, whole ones
        for name, key in store.names():
            read_entry(store.entry_path(name, key))
    # (`prepare` and `distill` may be too quick to be caught)
    assert all(caught[stage] for stage in PROGRESS), caught
    finish(start(folder, "killed"))
    same_results(undisturbed, store, planned)
    resumed = {stage for stage, key in planned.keys.items() if store_resumed(store, stage, key)}
    assert resumed >= set(PROGRESS)
    assert store.unfinished() == []


def store_resumed(store: Store, stage: str, key: str) -> bool:
    return read_entry(store.entry_path(stage, key)).manifest.resumed


def test_a_flipped_byte_is_found_set_aside_and_computed_again(
    folder: Path, planned: Plan, undisturbed: Store
) -> None:
    stage, key = "pretrain", planned.keys["pretrain"]
    weights = undisturbed.entry_path(stage, key) / "best.safetensors"
    before = weights.read_bytes()
    damaged = bytearray(before)
    damaged[len(damaged) // 2] ^= 0x10
    weights.write_bytes(damaged)
    with pytest.raises(CorruptEntryError):
        read_entry(weights.parent)
    said = finish(start(folder, "undisturbed"))
    assert "best.safetensors is not what was written" in said
    assert weights.read_bytes() == before
    assert len(list((undisturbed.root / ".corrupt").iterdir())) == 1
    read_entry(weights.parent)


def test_two_processes_at_once_share_the_work(folder: Path, planned: Plan, undisturbed: Store) -> None:
    processes = [start(folder, "shared") for _ in range(2)]
    said = "".join(finish(process) for process in processes)
    for stage in STAGES:
        lines = [line for line in said.splitlines() if line.startswith(f"{stage} ") and "computed in" in line]
        assert len(lines) == 1, said
    same_results(undisturbed, Store(folder / "shared" / "store"), planned)
