"""What is kept of sweeps: the newest that is not finished is resumed; what cannot be written is told once."""

import json
from pathlib import Path

import pytest

from nenni_core.errors import InputError
from pipeline import sweep_records
from pipeline.graph import NodeId
from pipeline.sweep_records import (
    Asked,
    End,
    SweepFolder,
    SweepRecord,
    find_sweep,
    forget_failure,
    known_failure,
    remember_failure,
)

NAME = NodeId("attack", "a" * 64)


def written(store: Path, name: str, end: End = "running", digest: str = "d") -> SweepRecord:
    record = SweepRecord(id=name, asked=Asked(grid="smoke", seeds=2), digest=digest, started="now", end=end)
    SweepFolder(store / ".sweeps" / name, record, pytest.fail).close(end, {})
    return record


def test_a_folder_keeps_what_was_asked_and_how_it_ended(tmp_path: Path) -> None:
    asked = Asked(grid="own/my grid.yaml", where=("model=resnet18",), override={"pretrain.epochs": 3})
    folder = SweepFolder.create(tmp_path, asked, "d", pytest.fail)
    assert folder.path.name.split("-")[2:4] == ["my", "grid"]
    assert find_sweep(tmp_path, None) == folder.record
    folder.event(NAME, {"state": "done"})
    folder.event(NAME, {"state": "failed"})
    events = [json.loads(line) for line in (folder.path / "events.jsonl").read_text().splitlines()]
    assert [(e["stage"], e["key"], e["state"]) for e in events] == [(*NAME, "done"), (*NAME, "failed")]
    folder.close("complete", {"done": 7})
    found = find_sweep(tmp_path, folder.record.id)
    assert (found.end, found.asked) == ("complete", asked)
    assert json.loads((folder.path / "summary.json").read_text())["done"] == 7


def test_the_newest_unfinished_is_resumed(tmp_path: Path) -> None:
    written(tmp_path, "20260101-000000-a", digest="one")
    newest = written(tmp_path, "20260102-000000-b", end="failed", digest="two")
    written(tmp_path, "20260103-000000-c", end="complete", digest="three")
    assert find_sweep(tmp_path, None) == newest
    for end in ("interrupted", "incomplete"):
        later = written(tmp_path, f"20260104-000000-{end}", end=end, digest=end)
        assert find_sweep(tmp_path, None) in (later, find_sweep(tmp_path, "20260104-000000-interrupted"))


def test_what_was_finished_later_is_not_resumed(tmp_path: Path) -> None:
    written(tmp_path, "20260101-000000-a", end="interrupted")
    written(tmp_path, "20260102-000000-b", end="complete")
    with pytest.raises(InputError, match=r"--resume: no sweep of the store .* is left to resume"):
        find_sweep(tmp_path, None)
    again = written(tmp_path, "20260103-000000-c", end="interrupted")
    assert find_sweep(tmp_path, None) == again


def test_the_beginning_of_a_name_will_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--resume 2026: there are no sweeps in the store"):
        find_sweep(tmp_path, "2026")
    first, second = (written(tmp_path, f"2026010{day}-000000-a", end="complete") for day in (1, 2))
    assert find_sweep(tmp_path, "20260101") == first
    assert find_sweep(tmp_path, second.id) == second
    with pytest.raises(InputError, match=f"unknown sweep '2026'; .*{first.id}, {second.id}"):
        find_sweep(tmp_path, "2026")
    with pytest.raises(InputError, match=f"unknown sweep '20260102-000000-b'; did you mean '{second.id}'"):
        find_sweep(tmp_path, "20260102-000000-b")


def test_a_damaged_record_is_passed_over(tmp_path: Path) -> None:
    record = written(tmp_path, "20260101-000000-a")
    for name, content in (("20260102-000000-b", "{"), ("20260103-000000-c", '{"id": 3}')):
        (tmp_path / ".sweeps" / name).mkdir()
        (tmp_path / ".sweeps" / name / "sweep.json").write_text(content)
    (tmp_path / ".sweeps" / "20260104-000000-d").mkdir()
    assert find_sweep(tmp_path, None) == record


def test_what_cannot_be_written_is_told_once(tmp_path: Path) -> None:
    (tmp_path / ".sweeps").write_text("a file where the folder would be")
    (tmp_path / ".failures").write_text("here too")
    told: list[str] = []
    folder = SweepFolder.create(tmp_path, Asked(grid="smoke"), "d", told.append)
    folder.event(NAME, {})
    folder.close("complete", {})
    [line] = told
    assert line.startswith(f"warning: {folder.path} cannot be written to: ")
    remember_failure(tmp_path, NAME, "broken", tmp_path / "log")
    forget_failure(tmp_path, NAME)
    assert known_failure(tmp_path, NAME) is None


def test_failures_are_known_to_the_same_code_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert known_failure(tmp_path, NAME) is None
    remember_failure(tmp_path, NAME, "broken", tmp_path / "log")
    found = known_failure(tmp_path, NAME)
    assert found is not None
    assert (found.reason, found.log) == ("broken", str(tmp_path / "log"))
    with monkeypatch.context() as patch:
        patch.setattr(sweep_records, "code_digest", lambda: "other code")
        assert known_failure(tmp_path, NAME) is None
    forget_failure(tmp_path, NAME)
    forget_failure(tmp_path, NAME)
    assert known_failure(tmp_path, NAME) is None
