"""Recording in a thread: in order, and whatever happens to one stage, the others are recorded."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stored_stages import store_set

from pipeline.background_tracker import BackgroundTracker
from pipeline.remote_files import RemoteStoreError
from pipeline.runner import Plan
from pipeline.store import Entry


class Recorder:
    """In place of a `Tracker`: remembers what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def finished(self, stage: str, plan: Plan, entry: Entry, *, cached: bool) -> None:
        self.told.append(stage)

    def close(self) -> None:
        self.told.append("closed")


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_entry_that_cannot_be_read_is_reported_and_the_others_are_recorded(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    store, [planned, *_] = store_set(tmp_path, tiny)

    def find(stage: str) -> Callable[[], Entry | None]:
        return lambda: store.find(stage, planned.keys[stage])

    def refuse() -> Entry | None:
        raise RemoteStoreError("the store does not answer")

    recorder, said = Recorder(), list[str]()
    tracker = BackgroundTracker(recorder, said.append)  # type: ignore[arg-type]
    tracker.finished("prepare", planned, find("prepare"), cached=True)
    tracker.finished("pretrain", planned, refuse, cached=True)
    tracker.finished("pretrain", planned, refuse, cached=True)
    tracker.finished("distill", planned, lambda: None, cached=True)  # gone meanwhile
    tracker.finished("attack", planned, find("attack"), cached=True)
    assert tracker.close(patience=30.0)
    assert recorder.told == ["prepare", "attack", "closed"]
    [line] = said
    assert "the store does not answer" in line
