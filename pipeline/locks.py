"""Locks between processes of one machine. The system frees the lock of a process that was killed."""

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


class BusyError(Exception):
    """Another process holds the lock."""


@contextmanager
def locked_file(path: Path, *, on_busy: Callable[[], None]) -> Iterator[None]:
    """Hold the lock named by `path`, a file that stays there empty.

    If another process holds it, `on_busy` is called once, and unless that raises, this waits. Not to be
    entered again by who holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_busy()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield  # closing the file frees the lock
