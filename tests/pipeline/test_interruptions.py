"""Real processes, killed with SIGKILL in the middle of every stage, must not be seen in the results."""

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from checkout import ROOT, Checkout
from tiny_experiment import TINY

from analysis.runs import load_runs
from pipeline.experiment import STAGES, load_parameters
from pipeline.runner import Plan, plan
from pipeline.store import SCRATCH, TIMING, CorruptEntryError, Store, read_entry

pytestmark = pytest.mark.slow

# Which file a stage is about to put in place when it is killed: in the middle of its work.
MOMENTS = {
    "prepare": "dataset.json",
    "pretrain": f"{SCRATCH}/cpu/epoch-00003.safetensors",
    "defend": f"{SCRATCH}/cpu/epoch-00002.safetensors",
    "distill": "layers.csv",
    "finetune": f"{SCRATCH}/cpu/epoch-00002.safetensors",
    "attack": f"{SCRATCH}/cpu/pgd20-00000.safetensors",
    "simulate": "layers.csv",
}
# Python imports this in every process of ours. Renaming a file is an audited event, which comes first.
SITECUSTOMIZE = """
import os, signal, sys

def hook(event, arguments):
    if event == "os.rename" and str(arguments[1]).endswith(os.environ["KILL_BEFORE"]):
        os.killpg(0, signal.SIGKILL)

if os.environ.get("KILL_BEFORE"):
    sys.addaudithook(hook)
"""


def last_command(stage: str) -> tuple[str, ...]:
    """The command of the last stage after `stage`, which computes all before it too."""
    module = f"pipeline.stages.{'simulate' if stage == 'simulate' else 'attack'}"
    return sys.executable, "-m", module, "--params", "params.yaml", "--threads=1", "--device=cpu"


def start(folder: Path, store: str, stage: str = "attack") -> "subprocess.Popen[str]":
    """`last_command` with everything in a folder of its own, untracked."""
    command = [*last_command(stage), "--no-tracking"]
    command += [f"--{name}={folder / store / name}" for name in ("outputs", "metrics", "plots", "store")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)


def finish(process: "subprocess.Popen[str]") -> str:
    """Wait for success; returns what it said."""
    _, said = process.communicate(timeout=200)
    assert process.returncode == 0, said
    return said


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A parameter file with enough epochs to be interrupted in."""
    content: dict[str, Any] = copy.deepcopy(TINY)
    content["pretrain"] |= {"epochs": 6, "defense": {"kind": "sparse", "method": "surgery", "epochs": 4}}
    content["distill"] |= {"solver": "sgd", "epochs": 20}
    content["finetune"] |= {"epochs": 4, "dense": False, "objective": "adversarial"}
    path = tmp_path_factory.mktemp("interruptions")
    Checkout(path, content)
    return path


@pytest.fixture(scope="module")
def planned(folder: Path) -> Plan:
    [only] = plan(load_parameters(folder / "params.yaml").experiments())
    return only


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> Store:
    """A store filled by a process that nobody disturbed."""
    finish(start(folder, "undisturbed"))
    finish(start(folder, "undisturbed", "simulate"))
    return Store(folder / "undisturbed" / "store")


def same_results(first: Store, second: Store, planned: Plan) -> None:
    """Equal bytes of all results, and equal metrics for DVC."""
    for stage, key in planned.keys.items():
        one, two = read_entry(first.entry_path(stage, key)), read_entry(second.entry_path(stage, key))
        files = [{n: r for n, r in e.manifest.files.items() if n != TIMING} for e in (one, two)]
        assert files[0] == files[1], stage
        assert one.metrics == two.metrics, stage
        assert one.manifest.digest == two.manifest.digest
    for name in ("attack.json", "simulate.json"):
        metrics = [(store.root.parent / "metrics" / name).read_bytes() for store in (first, second)]
        assert metrics[0] == metrics[1]


def test_killed_in_every_stage(folder: Path, planned: Plan, undisturbed: Store, tmp_path: Path) -> None:
    """The commands, and once `dvc repro` with what it runs, killed in each stage, then left alone by DVC.

    As if nothing had happened. (The commands are the same in either case; DVC's own start takes seconds.)
    """
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(SITECUSTOMIZE)
    checkout = Checkout(tmp_path / "checkout", yaml.safe_load((folder / "params.yaml").read_text()))
    store = Store(checkout.folder / "store")
    for stage, moment in MOMENTS.items():
        killer = {"PYTHONPATH": str(tmp_path / "hook"), "KILL_BEFORE": f"{planned.keys[stage]}/{moment}"}
        command = ("dvc", "repro") if stage == "defend" else last_command(stage)
        checkout.run(*command, fails=True, environment=killer)
        # the simulation does not need the attack, which stays as it was left
        left = ["attack", "simulate"] if stage == "simulate" else [stage]
        assert store.unfinished() == [(name, planned.keys[name]) for name in left]
        for name, key in store.names():  # whoever reads now sees whole entries only
            read_entry(store.entry_path(name, key))
    checkout.run("dvc", "repro")
    same_results(undisturbed, store, planned)
    entries = {stage: read_entry(store.entry_path(stage, key)) for stage, key in planned.keys.items()}
    assert {stage for stage, entry in entries.items() if entry.manifest.resumed} == set(STAGES)
    assert store.unfinished() == []

    runs = load_runs(f"sqlite:///{checkout.folder / 'mlflow.db'}", "test", stage=None)
    assert sorted(runs["stage"]) == sorted(STAGES)  # one run for each stage
    assert set(runs["status"]) == {"FINISHED"}
    assert (checkout.folder / "reports" / "table.csv").is_file()
    assert set(runs["key"]) == set(planned.keys.values())


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
    assert len(list((undisturbed.root / ".aside").iterdir())) == 1
    read_entry(weights.parent)


def test_two_processes_at_once_share_the_work(folder: Path, planned: Plan, undisturbed: Store) -> None:
    processes = [start(folder, "shared") for _ in range(2)]
    said = "".join(finish(process) for process in processes)
    said += finish(start(folder, "shared", "simulate"))
    for stage in STAGES:
        lines = [line for line in said.splitlines() if line.startswith(f"{stage} ") and "computed in" in line]
        assert len(lines) == 1, said
    same_results(undisturbed, Store(folder / "shared" / "store"), planned)
