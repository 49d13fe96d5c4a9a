"""The chain in slices: wherever it is stopped, it ends in the same bits."""

import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from small_chain import compute, small_chain, small_files_for_cifar10, write_cifar

from benchmarks import chain_run
from benchmarks.chain_plan import Chain
from benchmarks.chain_run import Done, run_chain
from nenni_core import data, distill_checkpoint
from nenni_core.attacks import AttackSpec
from nenni_core.chain import learning
from nenni_core.chain.distill import distill_teacher
from nenni_core.chain.pretrain import pretrain
from nenni_core.chain.record import RECORD, Record, file_digests, read_record, write_record
from nenni_core.chain.runtime import SCRATCH, Runtime
from nenni_core.chain.speed import TIMING
from nenni_core.chain.versions import VERSIONS
from nenni_core.errors import InputError
from nenni_core.progress import Deadline, OutOfTime

ATTACKS = (
    AttackSpec(name="cw_l2", kind="cw", steps=2, c=1.0),
    AttackSpec(name="transfer", kind="transfer", steps=1),
)


@pytest.fixture(scope="module", autouse=True)
def small_files() -> Iterator[None]:
    with small_files_for_cifar10():
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cifar(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def chain() -> Chain:
    return small_chain(*ATTACKS)


@pytest.fixture(scope="module")
def undisturbed(chain: Chain, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Done]:
    return compute(chain, folder, tmp_path_factory.mktemp("undisturbed"))


def results(done: list[Done]) -> dict[tuple[str, str], tuple[str, dict[str, float | int]]]:
    return {(one.step.stage, one.step.label): (one.record.digest, one.record.metrics) for one in done}


def ticking() -> Callable[[], float]:
    """A clock on which one second goes by with each look at it."""
    count = itertools.count()
    return lambda: float(next(count))


def test_the_chain_has_all_its_parts(undisturbed: list[Done]) -> None:
    assert [(one.step.stage, one.step.label) for one in undisturbed] == [
        ("prepare", ""),
        ("pretrain", ""),
        ("attack", "dense"),
        ("distill", ""),
        ("finetune", "ratio-0.9-adversarial"),
        ("attack", "ratio-0.9-adversarial"),
        ("finetune", "pattern-7:8-adversarial"),
        ("attack", "pattern-7:8-adversarial"),
    ]
    noisy = {one.step.label: one.record.metrics for one in undisturbed if one.step.stage == "finetune"}
    assert noisy["ratio-0.9-adversarial"]["mean_density"] == pytest.approx(0.1, abs=0.01)
    assert noisy["pattern-7:8-adversarial"]["mean_density"] == pytest.approx(1 / 8)


@pytest.mark.slow
@pytest.mark.parametrize("ticks", [12, 17])
def test_stopped_again_and_again_it_gives_the_same_bits(
    chain: Chain,
    folder: Path,
    tmp_path: Path,
    undisturbed: list[Done],
    ticks: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(distill_checkpoint, "CHECKPOINT_INTERVAL", 1)  # there are few batches
    calls, done = 0, None
    while done is None:
        calls += 1
        assert calls < 60, "a slice that keeps nothing"
        try:
            done = compute(chain, folder, tmp_path, deadline=Deadline(float(ticks), ticking()))
        except OutOfTime:
            continue
    assert calls > 2
    assert results(done) == results(undisturbed)
    assert any(one.record.resumed for one in done)
    assert not list(tmp_path.glob(".partial-*"))


def test_what_is_finished_is_not_computed_again(chain: Chain, folder: Path, undisturbed: list[Done]) -> None:
    out = undisturbed[0].folder.parent
    written = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    again = compute(chain, folder, out, deadline=Deadline(0.0, ticking()))  # there is no time for anything
    assert results(again) == results(undisturbed)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == written


def test_a_long_epoch_is_not_begun_at_the_end() -> None:
    now = 0.0
    deadline = Deadline(100.0, lambda: now)
    deadline.begin()
    for end in (40.0, 80.0):
        deadline.progress("training", 0, 10)
        now = end
        if end == 80.0:  # 40 seconds more would be too many
            with pytest.raises(OutOfTime):
                deadline.on_record({}, 2)
        else:
            deadline.on_record({}, 1)
    now = 100.0
    with pytest.raises(OutOfTime):
        deadline.check()


def test_damage_is_seen(chain: Chain, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(OutOfTime):  # after `prepare`
        compute(chain, folder, tmp_path, deadline=Deadline(12.0, ticking()))
    [prepared] = tmp_path.glob("prepare-*")
    facts = prepared / "dataset.json"
    content = facts.read_bytes()
    facts.write_bytes(content + b" ")
    with pytest.raises(InputError, match=r"dataset\.json' is not what was written"):
        compute(chain, folder, tmp_path)
    facts.unlink()
    with pytest.raises(InputError, match=r"dataset\.json' is missing"):
        compute(chain, folder, tmp_path)
    facts.write_bytes(content)
    assert read_record(prepared).stage == "prepare"
    record = json.loads((prepared / RECORD).read_text())
    (prepared / RECORD).write_text(json.dumps(record | {"seed": 1}))
    with pytest.raises(InputError, match="is not what was written; expected it unchanged"):
        compute(chain, folder, tmp_path)


def stopped_in(stage: str, chain: Chain, folder: Path, out: Path) -> None:
    """Begin the chain, and stop when the first epoch or batch of `stage` is kept."""
    ticks = 5
    while not list(out.glob(f".partial-{stage}-*/checkpoint/cpu/*.safetensors")):
        ticks += 1
        with pytest.raises(OutOfTime):
            compute(chain, folder, out, deadline=Deadline(float(ticks), ticking()))


def test_a_kill_when_all_is_done_loses_nothing(
    chain: Chain, folder: Path, tmp_path: Path, undisturbed: list[Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checkpoints are removed when the result has its name, not before."""
    usual = shutil.rmtree

    def killed(path: Path, *arguments: Any, **settings: Any) -> None:
        if path.name == SCRATCH:
            raise KeyboardInterrupt
        usual(path, *arguments, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            compute(chain, folder, tmp_path)
    [prepared] = tmp_path.glob("prepare-*")
    assert read_record(prepared).digest == undisturbed[0].record.digest
    assert (prepared / SCRATCH).is_dir()
    with pytest.raises(OutOfTime):
        compute(chain, folder, tmp_path, deadline=Deadline(0.0, ticking()))
    assert not (prepared / SCRATCH).exists()


def test_the_time_spent_is_written_while_the_work_goes_on(
    chain: Chain, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a kill, which lets nobody write, does not hide it."""
    monkeypatch.setattr(chain_run, "SAVE_EVERY", 0.0)
    seen: list[float] = []

    def progress(description: str, completed: int, total: int) -> None:
        if description == "pretrain: training":
            [attempt] = tmp_path.glob(f".partial-pretrain-*/{SCRATCH}/{chain_run.ATTEMPT}")
            seen.append(json.loads(attempt.read_text())["seconds"])

    with pytest.raises(OutOfTime):
        run_chain(
            chain,
            tmp_path,
            data_fingerprint=data.fingerprint("cifar10", path=folder),
            runtime=Runtime(data_path=folder, progress=progress),
            deadline=Deadline(14.0, ticking()),
        )
    assert len(seen) > 1
    assert seen[0] > 0
    assert all(before < after for before, after in itertools.pairwise(seen))


@pytest.mark.slow
def test_another_version_of_a_stage_does_not_continue(
    chain: Chain, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped_in("pretrain", chain, folder, tmp_path)
    monkeypatch.setitem(VERSIONS, "pretrain", 99)
    with pytest.raises(OutOfTime):
        compute(chain, folder, tmp_path, deadline=Deadline(30.0, ticking()))
    [pretrained] = tmp_path.glob("pretrain-*")
    record = read_record(pretrained)
    assert (record.version, record.resumed) == (99, False)
    monkeypatch.setitem(VERSIONS, "pretrain", 100)
    with pytest.raises(InputError, match=r"by version 99 of the stage; expected 100.* computed again"):
        compute(chain, folder, tmp_path)


def test_results_of_other_inputs_are_refused(
    chain: Chain, folder: Path, undisturbed: list[Done], tmp_path: Path
) -> None:
    """As where a folder was removed and computed again on another device."""
    out = tmp_path / "out"
    shutil.copytree(undisturbed[0].folder.parent, out)
    [pretrained] = out.glob("pretrain-*")
    (pretrained / "history.csv").write_text("other bits\n")
    record = json.loads((pretrained / RECORD).read_text()) | {"files": file_digests(pretrained)}
    write_record(pretrained, Record(**record))
    with pytest.raises(InputError, match=r"attack-\w+' was computed from another pretrain than '.*pretrain-"):
        compute(chain, folder, out)


def test_a_folder_without_a_record_is_refused_before_the_work(
    chain: Chain, folder: Path, undisturbed: list[Done], tmp_path: Path
) -> None:
    strange = tmp_path / undisturbed[0].folder.name
    strange.mkdir()
    with pytest.raises(InputError, match=r"prepare-\w+' has no record\.json"):
        compute(chain, folder, tmp_path)
    assert list(tmp_path.iterdir()) == [strange]


def test_images_a_second_of_a_distillation_are_those_of_its_process(
    chain: Chain, folder: Path, undisturbed: list[Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """50 images in four batches; what was measured before the interruption took none of the seconds."""
    monkeypatch.setattr(distill_checkpoint, "CHECKPOINT_INTERVAL", 1)
    inputs = {one.step.stage: one.folder for one in undisturbed if one.step.stage in ("prepare", "pretrain")}

    def stop(description: str, completed: int, total: int) -> None:
        assert total == 4
        if completed == 3:
            raise OutOfTime

    with pytest.raises(OutOfTime):
        distill_teacher(chain.distill, inputs, tmp_path, seed=0, runtime=Runtime(progress=stop))
    distill_teacher(chain.distill, inputs, tmp_path, seed=0, runtime=Runtime())
    timing = json.loads((tmp_path / TIMING).read_text())
    assert timing["images_per_second"] * timing["seconds/distillation"] == pytest.approx(50 / 4, rel=0.05)


def test_a_compiled_training_has_checkpoints_of_its_own(
    chain: Chain, undisturbed: list[Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It rounds differently, so it does not go on from those of another."""
    found: list[Path] = []

    def recorded(*arguments: Any, checkpoint_dir: Path, **settings: Any) -> None:
        found.append(checkpoint_dir)
        raise OutOfTime

    monkeypatch.setattr(learning, "train", recorded)
    for compiled in (False, True):
        runtime = Runtime(compile=compiled)
        with pytest.raises(OutOfTime):
            pretrain(chain.pretrain, {"prepare": undisturbed[0].folder}, tmp_path, seed=0, runtime=runtime)
    assert len(set(found)) == 2
    assert all(tmp_path / SCRATCH in path.parents for path in found)
