"""Whether robustness rises and then falls with sparsity, as Guo et al. 2018 (arXiv 1810.09619) find.

By their abstract an appropriately higher sparsity implies better robustness of nonlinear networks, whereas
those with too few weights resist less. Every word follows from the numbers and their intervals.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from analysis import names
from analysis.comparison import Difference, Estimate, difference
from analysis.protocol import in_pixels
from analysis.tables.robustness import RobustnessTable, Row

FEWEST = 3
"""Sparse networks of one base that make a curve."""
METHODS = {"magnitude": "Magnitude pruning", "surgery": "Dynamic network surgery"}
CLAIM = "Guo et al. (2018): robustness rises with sparsity, and falls when too few weights are left"
RISE_AND_FALL = "rises and then falls"
RISE = "rises and does not clearly fall again"
FALL = "falls without a clear rise before"
NEITHER = "neither clearly rises nor clearly falls"
_OF_ALL = {
    RISE: "rise and do not clearly fall again",
    FALL: "fall without a clear rise before",
    NEITHER: "neither clearly rise nor clearly fall",
}
_TEACHER = ("model", "dataset", "seed", "pretrain_epochs")


@dataclass(frozen=True, kw_only=True)
class Study:
    """Sparse networks that differ in nothing but their sparsity and how it came about.

    `curves` has for each method the networks by sparsity, ascending; the first one is dense unless the set
    has no such network. That is the network which was fine-tuned alike with no weight cut off or, if there is
    none (`fine_tuned` is false), the one that the fine-tuning started from.
    """

    base: str
    curves: Mapping[str, tuple[tuple[float, Row], ...]]
    fine_tuned: bool

    @property
    def title(self) -> str:
        """What the networks are: "small_resnet on cifar10, base clean"."""
        [_, row] = next(iter(self.curves.values()))[-1]
        return f"{row.identity['model']} on {row.identity['dataset']}, base {self.base}"


@dataclass(frozen=True, kw_only=True)
class Trend:
    """How one number moves with sparsity.

    `rise` is that of the best sparse network against the dense one, None where the dense one is the best;
    `fall` that of the sparsest network against the best of all, None where the sparsest one is the best.
    """

    best: float
    value: float
    last: float
    rise: Difference | None
    fall: Difference | None

    @property
    def rises(self) -> bool:
        """Whether some sparsity is clearly better than none."""
        return self.rise is not None and self.rise.sign == 1

    @property
    def falls(self) -> bool:
        """Whether the highest sparsity is clearly worse than the best."""
        return self.fall is not None and self.fall.sign == -1

    @property
    def words(self) -> str:
        """The verdict as the end of a sentence."""
        if self.rises:
            return RISE_AND_FALL if self.falls else RISE
        return FALL if self.falls else NEITHER


def studies(table: RobustnessTable) -> list[Study]:
    """The sets of at least `FEWEST` sparse networks in `table`, in the order of its rows."""
    groups: dict[str, list[Row]] = {}
    for row in table.rows:
        if _is_sparse(row):
            alike = {
                name: v for name, v in row.trained_by_settings.items() if name not in ("sparsity", "method")
            }
            found_on = (*(row.identity[name] for name in _TEACHER), row.tracked["data_fingerprint"], alike)
            groups.setdefault(json.dumps(found_on, sort_keys=True), []).append(row)
    return [
        _study(table, rows) for rows in groups.values() if sum(_sparsity(row) > 0 for row in rows) >= FEWEST
    ]


def _is_sparse(row: Row) -> bool:
    """Whether this is a pruned network, without noise, with a result."""
    pruned = row.trained_by_settings.get("kind") == "sparse"
    return pruned and row.is_dense and (row.identity["ensemble"] or 1) == 1 and row.images is not None


def _sparsity(row: Row) -> float:
    return float(row.trained_by_settings["sparsity"])


def _study(table: RobustnessTable, rows: list[Row]) -> Study:
    base = rows[0].trained_by_settings["base"]
    whole = {row.trained_by_settings["method"]: row for row in rows if _sparsity(row) == 0}
    start = _start(table, rows[0], base)
    curves = {}
    for method in METHODS:
        points = [(_sparsity(row), row) for row in rows if row.trained_by_settings["method"] == method]
        points = [(sparsity, row) for sparsity, row in points if sparsity > 0]
        dense = whole.get(method) or next(iter(whole.values()), start)
        if points:
            first = [] if dense is None else [(0.0, dense)]
            curves[method] = tuple(sorted([*first, *points], key=lambda point: point[0]))
    return Study(base=base, curves=curves, fine_tuned=bool(whole))


def _start(table: RobustnessTable, sparse: Row, base: str) -> Row | None:
    """The network that `sparse` was made from; None if the table has no result of it."""
    for row in table.rows:
        same = all(row.identity[name] == sparse.identity[name] for name in _TEACHER)
        measured = row.images and row.tracked["data_fingerprint"] == sparse.tracked["data_fingerprint"]
        if row.is_dense and row.identity["trained_by"] == base and same and measured:
            return row
    return None


def measures(table: RobustnessTable, study: Study) -> list[str]:
    """The columns whose curve says something of robustness: attacks in a ball, then distances."""
    return [*(column for columns in balls(table).values() for column in columns), *distances(study)]


def balls(table: RobustnessTable) -> dict[str, list[str]]:
    """FGSM and the longest PGD by their L-infinity radius ("1/255"), smallest first."""
    found: dict[float, dict[str, tuple[int, str]]] = {}
    for column in table.main_columns:
        settings = table.settings.get(column, {})
        blocked = settings.get("gradient") != "straight_through"
        if table.kind(column) not in ("fgsm", "pgd") or "eps" not in settings or not blocked:
            continue
        radius, steps = round(float(Fraction(settings["eps"])), 9), int(settings.get("steps", 1))
        longest = found.setdefault(radius, {})
        if steps > longest.get(table.kind(column), (0, ""))[0]:
            longest[table.kind(column)] = (steps, column)
    return {
        in_pixels(str(round(255 * radius, 6) / 255)): [
            column for _, (_, column) in sorted(found[radius].items())
        ]
        for radius in sorted(found)
    }


def distances(study: Study) -> list[str]:
    """The attacks that look for the smallest change, in the order of the table."""
    rows = [row for points in study.curves.values() for _, row in points]
    return names.attack_order(attack for row in rows for attack in row.distances)


def estimate(row: Row, column: str) -> Estimate | None:
    """The number of `row` in `column`: a median distance or an accuracy; None if it is missing."""
    return row.distances.get(column) or row.cells.get(column)


def trend(points: tuple[tuple[float, Row], ...], column: str) -> Trend | None:
    """How `column` moves along a curve; None without a dense network and two sparse ones with numbers."""
    found = [(sparsity, number) for sparsity, row in points if (number := estimate(row, column))]
    if len(found) < FEWEST or found[0][0] > 0:
        return None
    dense, sparse = found[0], found[1:]
    highest = max(sparse, key=lambda point: point[1].value)
    best, last = max((dense, highest), key=lambda point: point[1].value), found[-1]
    return Trend(
        best=best[0],
        value=best[1].value,
        last=last[0],
        rise=difference(highest[1], dense[1]) if best is highest else None,
        fall=difference(last[1], best[1]) if last is not best else None,
    )


def headline(table: RobustnessTable, study: Study) -> str:
    """In how many of the curves robustness rises and then falls, and what the others do."""
    verdicts: dict[str, list[str]] = {}
    for method, points in study.curves.items():
        for column in measures(table, study):
            if found := trend(points, column):
                verdicts.setdefault(found.words, []).append(f"{_measured(column, study)} ({method})")
    count = sum(map(len, verdicts.values()))
    if not count:
        return f"{CLAIM}. There is no dense network to compare the sparse ones with."
    shown = verdicts.pop(RISE_AND_FALL, [])
    if shown:
        which = "all" if len(shown) == count else f"{len(shown)} of"
        verdict = f"Here that shows in {which} {count} curves: {names.listed(shown)}."
    else:
        verdict = f"Here that shows in none of {count} curves."
    others = [
        f"All {count} {_OF_ALL[words]}." if len(curves) == count else f"What {words}: {names.listed(curves)}."
        for words, curves in verdicts.items()
    ]
    return " ".join([f"{CLAIM}.", verdict, *others])


def sentences(table: RobustnessTable, study: Study) -> list[tuple[str, str]]:
    """For each method what clean accuracy and each measure of robustness do, with their numbers."""
    found = []
    for method, points in study.curves.items():
        told = [
            f"{_measured(column, study)} {_told(change, distance=column in distances(study))}."
            for column in ("clean", *measures(table, study))
            if (change := trend(points, column))
        ]
        if told:
            found.append((METHODS[method], " ".join(told)))
    return found


def _measured(column: str, study: Study) -> str:
    name = "Clean accuracy" if column == "clean" else names.column_name(column).replace(", ", " at ")
    return f"{name} distance" if column in distances(study) else name


def _told(found: Trend, *, distance: bool) -> str:
    """A verdict with its numbers: "rises and then falls (highest ...)"."""
    value = f"{found.value:.3f}" if distance else f"{names.percent(found.value)}%"
    parts = [f"highest at sparsity {found.best:g} with {value}"]
    if found.rise:
        parts[0] += f", against sparsity 0 {_change(found.rise, distance=distance)}"
    if found.fall:
        parts.append(f"at sparsity {found.last:g} against that {_change(found.fall, distance=distance)}")
    return f"{found.words} ({'; '.join(parts)})"


def _change(change: Difference, *, distance: bool) -> str:
    ends = (change.value, change.low, change.high)
    if distance:
        value, low, high = (f"{end:+.3f}".replace("-", names.MINUS) for end in ends)
        return f"{value}, 95% interval {low} to {high}"
    value, low, high = (names.points(end) for end in ends)
    return f"{value} points, 95% interval {low} to {high}"
