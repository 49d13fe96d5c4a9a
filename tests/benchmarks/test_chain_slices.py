"""The chain in slices: wherever it is stopped, it ends in the same bits."""

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from small_chain import compute, small_chain, small_source, write_cifar

from benchmarks.chain_plan import Chain
from benchmarks.chain_run import Done
from nenni_core import data, distill_checkpoint
from nenni_core.attacks import AttackSpec
from nenni_core.chain.record import RECORD, read_record
from nenni_core.errors import InputError
from nenni_core.progress import Deadline, OutOfTime

ATTACKS = (
    AttackSpec(name="cw_l2", kind="cw", steps=2, c=1.0),
    AttackSpec(name="transfer", kind="transfer", steps=1),
)


@pytest.fixture(scope="module", autouse=True)
def small_files() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(data.DATASETS, "cifar10", small_source())
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
