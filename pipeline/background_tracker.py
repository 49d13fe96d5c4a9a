"""Recording runs without making the work wait: MLflow is written by one thread, in order."""

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue

from pipeline.command_line import say
from pipeline.runner import Plan
from pipeline.store import Entry
from pipeline.tracking import Tracker


class BackgroundTracker:
    """Passes finished stages on to a `Tracker` in a thread. None of its methods raises; only `close` waits.

    `report` gets one line if entries cannot be read; the others are recorded all the same.
    """

    def __init__(self, tracker: Tracker, report: Callable[[str], None] = say) -> None:
        self._tracker = tracker
        self._report = report
        self._reported = False
        self._queue: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._given = 0
        self._done = 0  # each number is written by one thread only
        # a daemon: a server that does not answer must not keep the process from ending
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._thread.start()

    def finished(self, stage: str, plan: Plan, find: Callable[[], Entry | None], *, cached: bool) -> None:
        """A stage is in the store; `find` gives its entry, in the thread."""

        def record() -> None:
            entry = find()
            if entry is not None:
                self._tracker.finished(stage, plan, entry, cached=cached)

        self._given += 1
        self._queue.put(record)

    @property
    def left(self) -> int:
        """How many stages are still to be recorded."""
        return max(0, self._given - self._done)

    def close(self, *, patience: float, on_wait: Callable[[int], None] = lambda left: None) -> bool:
        """End the parent run when all is recorded; False if that took more than `patience` seconds.

        `on_wait` is told about once a second how many stages are left.
        """
        self._queue.put(self._tracker.close)
        self._queue.put(None)
        waited = 0.0
        while self._thread.is_alive() and waited < patience:
            on_wait(self.left)
            self._thread.join(1.0)
            waited += 1.0
        return not self._thread.is_alive()

    def abandon(self) -> None:
        """Record nothing more than what is being written now."""
        try:
            while True:
                self._queue.get_nowait()
        except Empty:
            self._queue.put(None)

    def _work(self) -> None:
        while (action := self._queue.get()) is not None:
            try:
                action()
            except Exception as error:  # a store that does not answer, a disk that cannot be read
                if not self._reported:
                    self._reported = True
                    self._report(
                        f"warning: not every stage is recorded ({type(error).__name__}: {error}); the same"
                        " command records the rest"
                    )
            self._done += 1
