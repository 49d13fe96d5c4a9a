"""Two networks on the same images: McNemar's exact test on the masks that attack runs leave."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import polars as pl

from analysis.measurement import Run, Source
from analysis.paper_tables import MethodRow, PaperTable
from analysis.records import CORRECT, Reader, same_images
from analysis.statistics import holm, mcnemar

TEACHER, BEST_BASELINE = "dense teacher", "best baseline"
MOST_SEEDS = 5
"""Seeds beyond are not tested: with so many the spread over seeds says more than single images do."""


@dataclass(frozen=True, kw_only=True)
class PairedTest:
    """A network with noise against another one of its seed in one column.

    `only_ours` and `only_theirs` count the images on which one of the two alone is right.
    """

    dataset: str
    column: str
    ours: str
    against: str
    """Label of the other method."""
    role: str
    """Why it is compared with: the dense teacher, or the best baseline of this column."""
    seed: int | None
    images: int
    only_ours: int
    only_theirs: int
    p_value: float
    adjusted: float = 1.0
    """The p-value corrected for all tests of the table (Holm)."""

    @property
    def difference(self) -> float:
        """Ours minus theirs, a fraction from -1 to 1."""
        return (self.only_ours - self.only_theirs) / self.images


def paired_tests(table: PaperTable, read: Reader) -> list[PairedTest]:
    """All networks with noise against the dense teacher, and against the best baseline if that is another.

    The best baseline of a column is the row without injected noise with the highest number in it. Networks
    are paired within a seed, and only where both were asked about the same images under the same protocol
    and have records; of many seeds the first `MOST_SEEDS`. All p-values are corrected together.
    """

    def of(run: Run) -> pl.DataFrame | None:
        return read(run["run_id"])

    found: list[PairedTest] = []
    for row in table.rows:
        if not row.method.is_noise:
            continue
        for column in table.accuracies:
            for other, role in _opponents(table, row, column):
                if row.source.ambiguous or other.source.ambiguous:
                    continue
                if not row.source.differing(column, other.source):
                    found += _by_seed(row, other, role, column, of)
    adjusted = holm({place: test.p_value for place, test in enumerate(found)})
    return [replace(test, adjusted=adjusted[place]) for place, test in enumerate(found)]


@dataclass(frozen=True)
class _Opponent:
    label: str
    source: Source


def _opponents(table: PaperTable, row: MethodRow, column: str) -> list[tuple[_Opponent, str]]:
    opponents = []
    teacher = table.teachers.get(row.dataset)
    if teacher is not None and teacher.runs:
        opponents.append((_Opponent("Dense teacher", teacher), TEACHER))
    baselines = [
        other
        for other in table.of(row.dataset)
        if not other.method.is_noise and other.entries[column].measurement
    ]
    if baselines:
        best = max(baselines, key=lambda other: other.entries[column].measurement.value)  # type: ignore[union-attr]
        if teacher is None or best.source.runs != teacher.runs:
            opponents.append((_Opponent(best.label, best.source), BEST_BASELINE))
    return opponents


def _by_seed(
    row: MethodRow, other: _Opponent, role: str, column: str, of: Callable[[Run], pl.DataFrame | None]
) -> list[PairedTest]:
    theirs = {run["seed"]: run for run in other.source.runs}
    found = []
    for run in row.source.runs[:MOST_SEEDS]:
        if run["seed"] not in theirs:
            continue
        counts = discordant(of(run), of(theirs[run["seed"]]), column)
        if counts is not None:
            images, only_ours, only_theirs = counts
            found.append(
                PairedTest(
                    dataset=row.dataset,
                    column=column,
                    ours=row.label,
                    against=other.label,
                    role=role,
                    seed=run["seed"],
                    images=images,
                    only_ours=only_ours,
                    only_theirs=only_theirs,
                    p_value=mcnemar(only_ours, only_theirs),
                )
            )
    return found


def discordant(
    ours: pl.DataFrame | None, theirs: pl.DataFrame | None, column: str
) -> tuple[int, int, int] | None:
    """Images, and on how many of them ours alone and theirs alone is right in `column`.

    None unless both have the column, and the same images in the same order.
    """
    name = column + CORRECT
    if ours is None or theirs is None or name not in ours.columns or name not in theirs.columns:
        return None
    if not same_images(ours, theirs):
        return None
    mine, other = ours[name], theirs[name]
    return ours.height, int((mine & ~other).sum()), int((~mine & other).sum())
