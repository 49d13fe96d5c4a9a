"""The work on a remote store: checkpoints for another machine, and the pipeline on several machines.

A machine is a `RemoteStore` with a cache of its own.
"""

import itertools
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from manifests import KEY
from remote_places import Machine, Place, fill
from stored_stages import plans_of

from nenni_core.chain.runtime import Runtime
from pipeline import remote_store
from pipeline.attempt import Work
from pipeline.experiment import STAGES
from pipeline.remote_files import RemoteFolder, RemoteStoreError
from pipeline.remote_store import RemoteStore
from pipeline.runner import Plan, ensure
from pipeline.store import SCRATCH, Store


def work_on(store: RemoteStore, digests: Mapping[str, str] | None = None) -> Work:
    return Work.begin(store, "pretrain", KEY, {"prepare": "f" * 64} if digests is None else digests)


def test_a_stage_continues_on_another_machine(place: Place, machine: Machine) -> None:
    lost, other = machine(checkpoint_seconds=0.0), machine()
    work = work_on(lost)
    assert not work.resumed
    for epoch in range(3):
        (work.out / SCRATCH / f"epoch-{epoch}.bin").write_bytes(bytes([epoch]) * 100)
        (work.out / SCRATCH / f"epoch-{epoch - 2}.bin").unlink(missing_ok=True)
        (work.out / SCRATCH / f".epoch-{epoch + 1}.bin.7.part").write_bytes(b"being written")
        lost.save_checkpoint("pretrain", KEY)
    assert other.unfinished() == [("pretrain", KEY)]
    # two epochs and what `Work` itself keeps, with an index; what was dropped here is dropped there
    assert len([name for name in place.names() if name.startswith(".partial/")]) == 3 + 1
    continued = work_on(other)
    assert continued.resumed
    found = {path.name for path in (continued.out / SCRATCH).iterdir()}
    assert found == {"epoch-1.bin", "epoch-2.bin", "attempt.json"}
    assert (continued.out / SCRATCH / "epoch-2.bin").read_bytes() == b"\2" * 100
    fill(other)
    assert not any(name.startswith(".partial/") for name in place.names())
    assert machine().unfinished() == []


def test_a_checkpoint_of_other_inputs_is_dropped_everywhere(place: Place, machine: Machine) -> None:
    lost = machine(checkpoint_seconds=0.0)
    work_on(lost)
    lost.save_checkpoint("pretrain", KEY)
    fresh = work_on(machine(), {"prepare": "0" * 64})
    assert not fresh.resumed
    assert not any(name.startswith(".partial/") for name in place.names())


@pytest.mark.parametrize("damage", ["flip", "remove"])
def test_half_a_checkpoint_is_none(place: Place, machine: Machine, damage: str) -> None:
    lost = machine(checkpoint_seconds=0.0)
    work = work_on(lost)
    (work.out / SCRATCH / "epoch.bin").write_bytes(b"half way")
    lost.save_checkpoint("pretrain", KEY)
    blobs = [name for name in place.names() if name.startswith(".partial/") and "index" not in name]
    getattr(place, damage)(blobs[0])
    assert not work_on(machine()).resumed


def test_what_is_here_goes_before_what_is_there(machine: Machine) -> None:
    first, second = machine(checkpoint_seconds=0.0), machine(checkpoint_seconds=0.0)
    for store, content in ((first, b"first"), (second, b"second")):
        out = store.begin("pretrain", KEY)
        (out / SCRATCH / "epoch.bin").parent.mkdir(exist_ok=True)
        (out / SCRATCH / "epoch.bin").write_bytes(content)
        store.save_checkpoint("pretrain", KEY)
    assert (first.begin("pretrain", KEY) / SCRATCH / "epoch.bin").read_bytes() == b"first"
    assert (machine().begin("pretrain", KEY) / SCRATCH / "epoch.bin").read_bytes() == b"second"


def test_copying_checkpoints_takes_a_twentieth_of_the_time_at_most(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, copied = 0.0, list[float]()

    def slow(*arguments: object) -> dict[str, str]:
        nonlocal now
        copied.append(now)
        now += 30.0
        return {}

    monkeypatch.setattr(remote_store, "CHECKPOINT_SHARE", 0.05)
    monkeypatch.setattr(remote_store.time, "monotonic", lambda: now)
    monkeypatch.setattr(remote_store.remote_checkpoint, "save", slow)
    store = machine()
    store.begin("pretrain", KEY)
    while now < 3600.0:
        store.save_checkpoint("pretrain", KEY)
        now += 1.0
    assert copied[0] == pytest.approx(60.0, abs=1.0)
    assert 30.0 * len(copied) <= 0.06 * 3600.0
    assert len(copied) >= 5


def test_a_checkpoint_that_cannot_be_copied_stops_nothing(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    store = machine(lines, checkpoint_seconds=0.0)
    work_on(store)
    with monkeypatch.context() as patch:
        patch.setattr(RemoteFolder, "upload", lambda *a: (_ for _ in ()).throw(RemoteStoreError("gone")))
        store.save_checkpoint("pretrain", KEY)
    assert len(lines) == 1
    assert "stays on this machine" in lines[0]
    assert fill(store).path.is_dir()


# --- the pipeline on it ----------------------------------------------------------------------------------


class Stages:
    """Stands for the real stages; counts what is computed, on all machines together."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.stop_after: int | None = None
        self.epochs_run: list[int] = []

    def module(self, stage: str) -> SimpleNamespace:
        def run(
            config: Any, inputs: Mapping[str, Path], out: Path, *, seed: int, runtime: Runtime
        ) -> dict[str, float]:
            self.ran.append(stage)
            if stage == "prepare":
                facts = {"images": {"train": 1000, "test": 1000}, "image_shape": [3, 16, 16]}
                (out / "dataset.json").write_text(json.dumps(facts))
            if stage == "pretrain":
                self._train(runtime.scratch(out), runtime)
            read = [(path / "output.txt").read_text() for _, path in sorted(inputs.items())]
            (out / "output.txt").write_text(f"{stage} seed {seed} of {read}")
            return {"inputs": float(len(inputs))}

        return SimpleNamespace(run=run)

    def _train(self, scratch: Path, runtime: Runtime) -> None:
        scratch.mkdir(exist_ok=True)
        for epoch in range(len(list(scratch.iterdir())), 4):
            if epoch == self.stop_after:
                raise SystemExit("the machine is lost")
            self.epochs_run.append(epoch)
            (scratch / f"epoch-{epoch}").write_text(str(epoch))
            runtime.progress("epoch", epoch + 1, 4)


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stages]:
    fakes = Stages()
    for stage in STAGES:
        monkeypatch.setitem(sys.modules, f"pipeline.stages.{stage}", fakes.module(stage))
    return fakes


def test_machines_share_the_work(machine: Machine, tiny: dict[str, Any], stages: Stages) -> None:
    dense, variant = plans_of(tiny)
    first = ensure("attack", variant, store=machine())
    assert sorted(stages.ran) == sorted(variant.stages_to("attack"))
    store = machine()
    assert ensure("attack", variant, store=store).manifest == first.manifest
    ensure("attack", dense, store=store)
    assert stages.ran[len(variant.stages_to("attack")) :] == ["attack"]  # of the dense network only
    everything = {(stage, key) for planned in (dense, variant) for stage, key in planned.keys.items()}
    assert set(machine().names()) == everything


def test_a_lost_machines_training_goes_on_elsewhere(
    machine: Machine, tiny: dict[str, Any], stages: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.attempt.SAVE_EVERY", 0.0)
    planned: Plan = plans_of(tiny)[0]
    stages.stop_after = 3
    with pytest.raises(SystemExit):
        ensure("pretrain", planned, store=machine(checkpoint_seconds=0.0))
    stages.stop_after = None
    entry = ensure("pretrain", planned, store=machine())
    assert stages.epochs_run == [0, 1, 2, 3]  # each once
    assert entry.manifest.resumed


def test_an_entry_damaged_there_is_computed_again_once(
    place: Place, machine: Machine, tiny: dict[str, Any], stages: Stages
) -> None:
    _, variant = plans_of(tiny)
    ensure("attack", variant, store=machine())
    count = len(stages.ran)
    place.flip(next(n for n in place.names() if n.startswith("distill/") and n.endswith("output.txt")))
    lines: list[str] = []
    ensure("attack", variant, store=machine(lines))
    assert stages.ran[count:] == ["distill"]  # to the same bytes: what rests on it still does
    assert len(lines) == 1


@pytest.mark.slow
@pytest.mark.parametrize("place", ["file"], indirect=True)
def test_training_that_moves_to_another_machine_ends_at_the_same_bits(
    machine: Machine, tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.attempt.SAVE_EVERY", 0.0)
    tiny["pretrain"]["epochs"] = 3
    planned = plans_of(tiny)[0]
    undisturbed = ensure("pretrain", planned, store=Store(tmp_path / "undisturbed"))
    steps = itertools.count()

    def lost_in_the_last_epoch(description: str, completed: int, total: int) -> None:
        if description.startswith("pretrain") and completed > 2 * total / 3 and next(steps) == 1:
            raise SystemExit("the machine is lost")

    runtime = Runtime(progress=lost_in_the_last_epoch)
    with pytest.raises(SystemExit):
        ensure("pretrain", planned, store=machine(checkpoint_seconds=0.0), runtime=runtime)
    entry = ensure("pretrain", planned, store=machine())
    assert entry.manifest.resumed
    assert entry.manifest.digest == undisturbed.manifest.digest
