"""How long work reports where it stands, without knowing who shows it; and how it is told to stop."""

from collections.abc import Callable, Mapping
from time import monotonic

ProgressCallback = Callable[[str, int, int], None]
"""Called with (what is being done, units finished, units in all); must return quickly."""


def silent(description: str, completed: int, total: int) -> None:
    """A `ProgressCallback` that shows nothing."""


def labelled(progress: ProgressCallback, subject: str) -> ProgressCallback:
    """`progress` that also says what the work is for."""

    def report(description: str, completed: int, total: int) -> None:
        progress(f"{subject}: {description}", completed, total)

    return report


class OutOfTime(Exception):
    """The time for this call is over; what the work has kept so far is on the disk."""


class Deadline:
    """Raises `OutOfTime` in the middle of work that reports to it, once `seconds` have gone by.

    Work that keeps checkpoints loses what it has done since the last one. Epochs are not begun if they would
    take longer than what is left, judging by the one before.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._end = clock() + seconds
        self._epoch_began: float | None = None

    def begin(self) -> None:
        """Other work begins: how long its epochs take is not known."""
        self._epoch_began = None

    def check(self) -> None:
        """Raise if it is over."""
        if self._clock() >= self._end:
            raise OutOfTime

    def progress(self, description: str, completed: int, total: int) -> None:
        """A `ProgressCallback`."""
        if self._epoch_began is None:
            self._epoch_began = self._clock()
        self.check()

    def on_record(self, values: Mapping[str, float], step: int) -> None:
        """Told of every epoch once its checkpoint is written."""
        now = self._clock()
        if self._epoch_began is not None and now + (now - self._epoch_began) > self._end:
            raise OutOfTime
        self._epoch_began = now
