"""What is known of an entry while it is being computed, kept beside its checkpoints.

A stage that was interrupted continues from its checkpoints, if what it reads is still the same. The entry
then names the code that began it, and the seconds of all processes that had a part in it.
"""

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from nenni_core.files import write_json
from nenni_core.progress import ProgressCallback
from pipeline.provenance import code_digest, commit
from pipeline.store import SCRATCH, Store

ATTEMPT = "attempt.json"
SAVE_EVERY = 5.0
"""Seconds between two writes of the time spent: so much at most is missing for every kill."""


class Attempt(BaseModel):
    """Where the work on an unfinished entry comes from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    upstream_digests: dict[str, str]
    git_commit: str
    git_dirty: bool
    code: str
    seconds: float = 0.0
    """Wall time of the processes that were interrupted."""


class Work:
    """The folder in which a process works on an entry. Hold the entry's lock.

    `share` is called from time to time at moments at which all checkpoints are whole.
    """

    def __init__(
        self, out: Path, begun: Attempt, *, resumed: bool, share: Callable[[], None] = lambda: None
    ) -> None:
        self.out = out
        self.begun = begun
        self.resumed = resumed
        self._share = share
        self._start = self._saved = time.perf_counter()
        self._save()

    @classmethod
    def begin(cls, store: Store, stage: str, key: str, upstream_digests: Mapping[str, str]) -> "Work":
        """Continue what an interrupted process has left, or start anew where that read other inputs."""
        share = partial(store.save_checkpoint, stage, key)
        out = store.begin(stage, key)
        earlier = _read(out / SCRATCH / ATTEMPT)
        if earlier is not None and earlier.upstream_digests == dict(upstream_digests):
            return cls(out, earlier, resumed=True, share=share)
        if any(out.iterdir()):
            store.discard(stage, key)
            out = store.begin(stage, key)
        state = commit()
        fresh = Attempt(
            upstream_digests=dict(upstream_digests),
            git_commit=state.sha,
            git_dirty=state.dirty,
            code=code_digest(),
        )
        return cls(out, fresh, resumed=False, share=share)

    @property
    def seconds(self) -> float:
        """Wall time so far, of this and all earlier processes."""
        return round(self.begun.seconds + time.perf_counter() - self._start, 3)

    def timed(self, progress: ProgressCallback) -> ProgressCallback:
        """`progress` that also saves the time spent, now and then, and lets the store copy the checkpoints.

        It is called between two steps of the work, so nothing is being written meanwhile.
        """

        def report(description: str, completed: int, total: int) -> None:
            if time.perf_counter() - self._saved >= SAVE_EVERY:
                self._save()
                self._share()
            progress(description, completed, total)

        return report

    def _save(self) -> None:
        self._saved = time.perf_counter()
        state = self.begun.model_copy(update={"seconds": self.seconds})
        write_json(self.out / SCRATCH / ATTEMPT, state.model_dump())


def _read(path: Path) -> Attempt | None:
    try:
        return Attempt.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
