"""How two networks differ: on the same images or trained from the same seeds where that can be told.

Networks that see the same images err on the same ones, and networks of one seed come from one dense network:
what they have in common says nothing about which is better, and is left out of the interval.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

import polars as pl

from analysis import names
from analysis.comparison import Difference, difference, paired_difference
from analysis.measurement import Run, Source
from analysis.networks import Measured, Network, change
from analysis.records import Reader, chances, fourfold, no_records, same_images
from analysis.statistics import mcnemar, spread
from analysis.tables.robustness import cell

PAIRED, BY_SEED, INDEPENDENT = "paired", "paired by seed", "independent"
MOST_READ = 100
"""Records of so many runs are read at most: each is a file to fetch, tens of milliseconds."""
SAME = 0.01
"""Images by which records and the tracked accuracy may differ: sums of rounded shares."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two accuracies, or two gains, and how much the first is above the second; fractions.

    `how` is "paired" (image by image), "paired by seed" or "independent", then with what kept them from being
    paired if that can be said. `p_value` is McNemar's, of pairs of images that are either right or wrong.
    """

    now: float
    before: float
    difference: Difference
    how: str
    images: tuple[int, ...]
    """Denominators, ascending: one number where both are of as many images."""
    seeds: tuple[int, ...]
    """How many trainings they are the mean of, ascending."""
    run_ids: tuple[str, ...]
    p_value: float | None = None

    @property
    def basis(self) -> str:
        """What it rests on: "paired, 400 images, 1 seed"."""
        counts = [f"{' and '.join(map(str, self.images))} images"] if self.images else []
        plural = "" if self.seeds == (1,) else "s"
        return ", ".join([self.how, *counts, f"{' and '.join(map(str, self.seeds))} seed{plural}"])


class Comparer:
    """Compares networks; reads the records of single images when they are needed, of `most` runs at most."""

    def __init__(self, read: Reader = no_records, *, most: int = MOST_READ) -> None:
        self._reader = read
        self._most = most
        self._asked: set[str] = set()

    def compare(self, now: Network, before: Network, column: str) -> Comparison | None:
        """How much more accurate `now` is in `column`; None where one of them lacks the number.

        One training each, or one seed in common: Newcombe's interval for pairs of images. Several common
        seeds: Student's interval of their differences. Else, and where test data, images, settings of the
        attack or records do not allow it: the interval of independent samples.
        """
        ours, theirs = now.accuracy(column), before.accuracy(column)
        if ours is None or theirs is None:
            return None
        pairs, how = _pairs(now, before, [column])
        if len(pairs) > 1:
            return _by_seed(pairs, lambda a, _: _value(a, column), lambda _, b: _value(b, column))
        if pairs and (found := self._by_image(*pairs[0], column)) is not None:
            return found
        return _independent(ours, theirs, how)

    def compare_gains(self, now: Network, before: Network, far: str, near: str) -> Comparison | None:
        """How much larger the gain of `now` over `before` is in column `far` than in `near`.

        One training each: Student's interval over the images, each of which says how much it adds; several
        common seeds: the same over the seeds; else as of independent samples.
        """
        gains = []
        for column in (far, near):
            ours, theirs = now.accuracy(column), before.accuracy(column)
            if ours is None or theirs is None:
                return None
            gains.append(change(ours, theirs))
        pairs, how = _pairs(now, before, [far, near])
        if len(pairs) > 1:
            return _by_seed(
                pairs,
                lambda a, b: _value(a, far) - _value(b, far),
                lambda a, b: _value(a, near) - _value(b, near),
            )
        if pairs and (found := self._gains_by_image(*pairs[0], far, near)) is not None:
            return found
        return _independent(gains[0], gains[1], how)

    def by_image(self, now: Run, before: Run, column: str) -> Comparison | None:
        """How much more accurate the attack run `now` is in `column`, by what each makes of every image.

        None where test data, images or settings of the attack differ, and without fitting records of both.
        """
        if not all(map(self._may_read, (now, before))) or Source(runs=(now, before)).differing(column):
            return None
        return self._by_image(now, before, column)

    def _by_image(self, now: Run, before: Run, column: str) -> Comparison | None:
        counts = fourfold(self._records(now, [column]), self._records(before, [column]), column)
        if counts is None:
            return None
        cells = (counts.only_now, counts.only_before)
        whole = all(count.is_integer() for count in cells)
        return Comparison(
            now=counts.now.value,
            before=counts.before.value,
            difference=paired_difference(counts),
            how=PAIRED,
            images=(counts.images,),
            seeds=(1,),
            run_ids=(now["run_id"], before["run_id"]),
            p_value=mcnemar(int(cells[0]), int(cells[1])) if whole else None,
        )

    def _gains_by_image(self, now: Run, before: Run, far: str, near: str) -> Comparison | None:
        ours, theirs = (self._records(run, [far, near]) for run in (now, before))
        if ours is None or theirs is None or not same_images(ours, theirs):
            return None
        gains = []
        for column in (far, near):
            mine, other = chances(ours, column), chances(theirs, column)
            if mine is None or other is None:
                return None
            gains.append(mine - other)
        found = spread((gains[0] - gains[1]).to_list())
        low, high = found.interval or (found.mean, found.mean)
        return Comparison(
            now=float(gains[0].sum()) / found.count,
            before=float(gains[1].sum()) / found.count,
            difference=Difference(value=found.mean, low=low, high=high),
            how=PAIRED,
            images=(found.count,),
            seeds=(1,),
            run_ids=(now["run_id"], before["run_id"]),
        )

    def _may_read(self, run: Run) -> bool:
        return run["run_id"] in self._asked or len(self._asked) < self._most

    def _records(self, run: Run, columns: Sequence[str]) -> pl.DataFrame | None:
        """The records of a run, if they are of the numbers that it has tracked in `columns`."""
        if not self._may_read(run):
            return None
        self._asked.add(run["run_id"])
        records = self._reader(run["run_id"])
        if records is None or records.height != run["images"]:
            return None
        for column in columns:
            share, known = cell(run, column), chances(records, column)
            if share is None or known is None or abs(float(known.sum()) - share.correct) > SAME:
                return None
        return records


def _pairs(now: Network, before: Network, columns: Sequence[str]) -> tuple[list[tuple[Run, Run]], str]:
    """The runs of common seeds, or the two runs that there are, and how to call it where that fails.

    None unless all were asked about the same images under the same attacks.
    """
    runs = Source(runs=(now.runs[0], before.runs[0]))  # those of one network have one protocol
    differing = dict.fromkeys(what for column in columns for what in runs.differing(column))
    if differing:
        return [], f"{INDEPENDENT}: different {names.listed(differing)}"
    if len(now.runs) == len(before.runs) == 1:
        return [(now.runs[0], before.runs[0])], INDEPENDENT
    theirs = {run["seed"]: run for run in before.runs if run["seed"] is not None}
    return [(run, theirs[run["seed"]]) for run in now.runs if run["seed"] in theirs], INDEPENDENT


def _value(run: Run, column: str) -> float:
    share = cell(run, column)
    assert share is not None, "a network has a number only where each of its seeds has it"
    return share.value


def _by_seed(
    pairs: Sequence[tuple[Run, Run]],
    first: Callable[[Run, Run], float],
    second: Callable[[Run, Run], float],
) -> Comparison:
    """Student's interval for the mean over the seeds of `first` minus `second`."""
    now, before = ([number(*pair) for pair in pairs] for number in (first, second))
    found = spread([one - other for one, other in zip(now, before, strict=True)])
    low, high = found.interval or (found.mean, found.mean)
    return Comparison(
        now=fmean(now),
        before=fmean(before),
        difference=Difference(value=found.mean, low=low, high=high),
        how=BY_SEED,
        images=(pairs[0][0]["images"],),
        seeds=(len(pairs),),
        run_ids=tuple(pair[place]["run_id"] for place in (0, 1) for pair in pairs),
    )


def _independent(now: Measured, before: Measured, how: str) -> Comparison:
    return Comparison(
        now=now.value,
        before=before.value,
        difference=difference(now, before),
        how=how,
        images=tuple(sorted({one.images for one in (now, before) if one.images})),
        seeds=tuple(sorted({one.seeds for one in (now, before)})),
        run_ids=tuple(dict.fromkeys((*now.run_ids, *before.run_ids))),
    )
