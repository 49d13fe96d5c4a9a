"""The runner: what is missing is computed once, upstream first, and failures leave nothing half."""

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from stored_stages import plans_of

from nenni_core.chain.runtime import RecordCallback, Runtime
from nenni_core.errors import InputError
from pipeline import attempt
from pipeline.experiment import STAGES
from pipeline.runner import Plan, ensure
from pipeline.store import SCRATCH, Entry, Store


class Stages:
    """Stands for the real stages: each writes its name and what it read."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.fail: dict[str, BaseException] = {}
        self.result: dict[str, str] = {}
        self.runtimes: list[Runtime] = []
        self.seen: list[list[str]] = []
        self.work: dict[str, Callable[[Runtime], object]] = {}

    def module(self, stage: str) -> SimpleNamespace:
        def run(
            config: Any, inputs: Mapping[str, Path], out: Path, *, seed: int, runtime: Runtime
        ) -> dict[str, float]:
            self.ran.append(stage)
            self.runtimes.append(runtime)
            self.seen.append(sorted(path.name for path in out.rglob("*.txt")))
            read = [(path / "output.txt").read_text() for _, path in sorted(inputs.items())]
            (out / SCRATCH).mkdir(exist_ok=True)
            (out / SCRATCH / "half.txt").write_text("half way")
            runtime.on_record({"value": 1.0}, 0)
            self.work.get(stage, lambda runtime: None)(runtime)
            if stage in self.fail:
                raise self.fail[stage]
            if stage == "prepare":
                facts = {"images": {"train": 1000, "test": 1000}, "image_shape": [3, 16, 16]}
                (out / "dataset.json").write_text(json.dumps(facts))
            (out / "output.txt").write_text(f"{stage} seed {seed} of {read}{self.result.get(stage, '')}")
            return {"inputs": float(len(inputs))}

        return SimpleNamespace(run=run)


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> Stages:
    fakes = Stages()
    for stage in STAGES:
        monkeypatch.setitem(sys.modules, f"pipeline.stages.{stage}", fakes.module(stage))
    return fakes


class Watcher:
    """An observer that writes down what it sees."""

    def __init__(self) -> None:
        self.events: list[str] = []

    @contextmanager
    def computing(self, stage: str, plan: Plan, *, resumed: bool) -> Iterator[RecordCallback]:
        self.events.append(f"{'resume' if resumed else 'begin'} {stage}")
        try:
            yield lambda values, step: self.events.append(f"record {stage} {dict(values)} {step}")
        except BaseException as error:
            self.events.append(f"fail {stage} {type(error).__name__}")
            raise

    def finished(self, stage: str, plan: Plan, entry: Entry, *, cached: bool) -> None:
        self.events.append(f"{'cached' if cached else 'done'} {stage}")


def test_everything_upstream_is_computed_first(tmp_path: Path, tiny: dict[str, Any], stages: Stages) -> None:
    dense, variant = plans_of(tiny)
    store = Store(tmp_path)
    entry = ensure("attack", variant, store=store)
    assert stages.ran == ["prepare", "pretrain", "distill", "finetune", "attack"]
    assert entry.manifest.upstream == {name: variant.keys[name] for name in ("prepare", "finetune")}
    assert entry.metrics == {"inputs": 2.0}
    assert "prepare seed 0 of []" in (entry.path / "output.txt").read_text()
    assert not (entry.path / SCRATCH).exists()

    assert ensure("attack", variant, store=Store(tmp_path)) == entry
    assert len(stages.ran) == 5
    ensure("attack", dense.experiment, store=Store(tmp_path))
    assert stages.ran[5:] == ["attack"]  # the teacher is shared


def test_observers_hear_of_everything(tmp_path: Path, tiny: dict[str, Any], stages: Stages) -> None:
    dense, _ = plans_of(tiny)
    watcher = Watcher()
    ensure("pretrain", dense, store=Store(tmp_path), observer=watcher)
    ensure("pretrain", dense, store=Store(tmp_path), observer=watcher)
    assert watcher.events == [
        "begin prepare",
        "record prepare {'value': 1.0} 0",
        "done prepare",
        "begin pretrain",
        "record pretrain {'value': 1.0} 0",
        "done pretrain",
        "cached prepare",
        "cached pretrain",
    ]


def test_a_damaged_entry_is_computed_again(tmp_path: Path, tiny: dict[str, Any], stages: Stages) -> None:
    _, variant = plans_of(tiny)
    first = ensure("attack", variant, store=Store(tmp_path))
    (tmp_path / "attack" / variant.keys["attack"] / "output.txt").write_text("attack: no harm done")
    lines: list[str] = []
    stages.ran.clear()
    again = ensure("attack", variant, store=Store(tmp_path, lines.append))
    assert stages.ran == ["attack"]
    assert again.manifest.files == first.manifest.files
    assert "damaged" in lines[0]

    (tmp_path / "prepare" / variant.keys["prepare"] / "output.txt").unlink()
    stages.ran.clear()
    ensure("attack", variant, store=Store(tmp_path))
    assert stages.ran == ["prepare"]  # with the same result, on which the others stand


def test_what_stands_on_another_result_is_computed_again(
    tmp_path: Path, tiny: dict[str, Any], stages: Stages
) -> None:
    dense, variant = plans_of(tiny)
    for planned in (dense, variant):
        ensure("attack", planned, store=Store(tmp_path))
    store = Store(tmp_path)
    store.discard("distill", variant.keys["distill"])
    stages.result["distill"] = " by other code"
    stages.ran.clear()
    lines: list[str] = []
    entry = ensure("attack", variant, store=Store(tmp_path, lines.append))
    assert stages.ran == ["distill", "finetune", "attack"]
    assert "distill seed 0 of" in (entry.path / "output.txt").read_text()
    assert "by other code" in (entry.path / "output.txt").read_text()
    assert [line.split()[1] for line in lines] == ["finetune", "attack"]
    assert all("with another result" in line for line in lines)
    ensure("attack", dense, store=Store(tmp_path))  # does not read it
    ensure("attack", variant, store=Store(tmp_path))
    assert len(stages.ran) == 3


def test_checkpoints_are_not_continued_from_other_inputs(
    tmp_path: Path, tiny: dict[str, Any], stages: Stages
) -> None:
    dense, _ = plans_of(tiny)
    stages.fail["pretrain"] = RuntimeError("half way")
    with pytest.raises(RuntimeError):
        ensure("pretrain", dense, store=Store(tmp_path))
    stages.fail.clear()
    store = Store(tmp_path)
    store.discard("prepare", dense.keys["prepare"])
    stages.result["prepare"] = " from another archive"
    watcher = Watcher()
    entry = ensure("pretrain", dense, store=store, observer=watcher)
    assert stages.seen[-1] == []
    assert not entry.manifest.resumed
    assert "begin pretrain" in watcher.events


def test_the_seconds_of_all_attempts_are_counted_and_the_first_code_is_named(
    tmp_path: Path, tiny: dict[str, Any], stages: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    dense, _ = plans_of(tiny)
    now = 0.0

    def work(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(attempt.time, "perf_counter", lambda: now)
    monkeypatch.setattr(attempt, "code_digest", lambda: "first")
    stages.work["prepare"] = lambda runtime: (work(7.0), runtime.progress("x", 1, 2), work(1.0))
    stages.fail["prepare"] = RuntimeError("killed one second after the last step")
    with pytest.raises(RuntimeError):
        ensure("prepare", dense, store=Store(tmp_path))
    monkeypatch.setattr(attempt, "code_digest", lambda: "second")
    stages.fail.clear()
    stages.work["prepare"] = lambda runtime: work(4.0)
    manifest = ensure("prepare", dense, store=Store(tmp_path)).manifest
    assert manifest.seconds == 7.0 + 4.0
    assert manifest.code == "first"  # not what would compute all of it today
    assert manifest.resumed


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("attack", {"images": 1001}, "attack.images is 1001; expected at most 1000"),
        ("distill", {"images": 5000}, "distill.images is 5000"),
        ("finetune", {"calibration_images": 1001}, "finetune.calibration_images is 1001"),
        ("finetune", {"crop_padding": 16}, "finetune.crop_padding is 16; expected below 16"),
        ("pretrain", {"crop_padding": 20}, "pretrain.crop_padding is 20"),
    ],
)
def test_what_the_data_cannot_give_is_found_before_anything_is_trained(
    tmp_path: Path, tiny: dict[str, Any], stages: Stages, section: str, change: dict[str, Any], message: str
) -> None:
    tiny[section] |= change
    *_, variant = plans_of(tiny)
    with pytest.raises(InputError, match=re.escape(message)):
        ensure("attack", variant, store=Store(tmp_path))
    assert stages.ran == ["prepare"]


@pytest.mark.parametrize("error", [InputError("no such archive"), RuntimeError("bug"), KeyboardInterrupt()])
def test_a_failure_leaves_nothing_half_and_can_be_resumed(
    tmp_path: Path, tiny: dict[str, Any], stages: Stages, error: BaseException
) -> None:
    dense, _ = plans_of(tiny)
    stages.fail["pretrain"] = error
    watcher = Watcher()
    with pytest.raises(type(error)):
        ensure("attack", dense, store=Store(tmp_path), observer=watcher)
    assert watcher.events[-1] == f"fail pretrain {type(error).__name__}"
    store = Store(tmp_path)
    assert store.names() == [("prepare", dense.keys["prepare"])]
    assert store.unfinished() == [("pretrain", dense.keys["pretrain"])]

    stages.fail.clear()
    ensure("attack", dense, store=store)
    assert stages.ran == ["prepare", "pretrain", "pretrain", "attack"]
    assert stages.seen[1:3] == [[], ["half.txt"]]  # what the first attempt left
    resumed = store.find("pretrain", dense.keys["pretrain"])
    fresh = store.find("attack", dense.keys["attack"])
    assert resumed is not None
    assert fresh is not None
    assert (resumed.manifest.resumed, fresh.manifest.resumed) == (True, False)
    assert store.unfinished() == []


def test_an_interrupted_commit_is_finished_without_computing(
    tmp_path: Path, tiny: dict[str, Any], stages: Stages
) -> None:
    dense, _ = plans_of(tiny)
    store = Store(tmp_path)
    entry = ensure("prepare", dense, store=store)
    partial = store.partial_path("prepare", dense.keys["prepare"])
    partial.parent.mkdir(parents=True, exist_ok=True)
    entry.path.rename(partial)  # as if killed before the last step
    assert ensure("prepare", dense, store=Store(tmp_path)).manifest == entry.manifest
    assert stages.ran == ["prepare"]


def test_where_the_data_lies_is_passed_on_and_not_recorded(
    tmp_path: Path, tiny: dict[str, Any], stages: Stages
) -> None:
    tiny["prepare"] |= {"dataset": "cifar10", "path": str(tmp_path / "missing")}
    with pytest.raises(InputError, match="missing"):
        plans_of(tiny)
    [experiment, _] = (planned.experiment for planned in plans_of(_without_path(tiny)))
    moved = experiment.model_copy(
        update={"prepare": experiment.prepare.model_copy(update={"path": "somewhere"})}
    )
    planned = Plan(moved, plans_of(_without_path(tiny))[0].keys, "data")
    entry = ensure("prepare", planned, store=Store(tmp_path / "store"))
    assert stages.runtimes[0].data_path == Path("somewhere")
    assert "somewhere" not in (entry.path / "manifest.json").read_text()


def _without_path(content: dict[str, Any]) -> dict[str, Any]:
    return content | {"prepare": content["prepare"] | {"path": None}}
