"""How long work reports where it stands, without knowing who shows it."""

from collections.abc import Callable

ProgressCallback = Callable[[str, int, int], None]
"""Called with (what is being done, units finished, units in all); must return quickly."""


def silent(description: str, completed: int, total: int) -> None:
    """A `ProgressCallback` that shows nothing."""


def labelled(progress: ProgressCallback, subject: str) -> ProgressCallback:
    """`progress` that also says what the work is for."""

    def report(description: str, completed: int, total: int) -> None:
        progress(f"{subject}: {description}", completed, total)

    return report
