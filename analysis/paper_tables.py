"""The paper's tables 1 to 4 from tracked runs: the same rows and columns, ours beside the printed values."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import polars as pl

from analysis.claims import Fitness, Stages, fitness
from analysis.comparison import Difference, difference
from analysis.measurement import Measurement, Run, Source, choose, is_of
from analysis.pairing import Comparer, Comparison
from analysis.paper_layout import BITOPS, CLEAN, TABLES, Layout, Method, layout
from analysis.statistics import spread
from analysis.tables.robustness import WORST_CASE
from analysis.verdict import Order, Verdict, order, verdict

ByImage = Callable[[Run, Run, str], Comparison | None]
TEACHER = Method(title="Dense teacher")
NAMED = re.compile(r"(?:small-)?table(?P<number>[1-4])")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One accuracy: `found` is the measurement, or why there is none; `printed` the paper's, a fraction."""

    found: Measurement | str
    printed: float | None
    fitness: Fitness
    verdict: Verdict | None = None
    """None unless the number is fit for a comparison with the printed one."""
    rank: int = 0
    """1 for the best of its column, 2 for the second, 0 for the others and where nothing is ranked."""

    @property
    def measurement(self) -> Measurement | None:
        """The measurement; None if there is none."""
        return None if isinstance(self.found, str) else self.found

    @property
    def difference(self) -> float | None:
        """Ours minus the printed one, a fraction; None where one of them lacks."""
        if self.measurement is None or self.printed is None:
            return None
        return self.measurement.value - self.printed


@dataclass(frozen=True, kw_only=True)
class Improvement:
    """How far a network of the paper's own is from the baseline, as measured and as printed."""

    ours: Difference | None
    printed: float | None


@dataclass(frozen=True, kw_only=True)
class MethodRow:
    """One method on one data set."""

    dataset: str
    method: Method
    objective: str | None
    """What images a network with noise was fine-tuned on, where the paper does not say it; else None."""
    source: Source
    entries: Mapping[str, Entry]
    """By column: those of the table that are accuracies."""
    cost_rank: int = 0
    printed_cost: float | None = None
    """The paper's BitOPs as a share of those of its dense network."""
    improvements: Mapping[str, Improvement] | None = None
    """By column that is an accuracy; None where the paper has no such row."""

    @property
    def label(self) -> str:
        """The method as it is printed, with the images of its fine-tuning."""
        return self.method.title + (f", {self.objective}" if self.objective else "")


@dataclass(frozen=True, kw_only=True)
class PaperTable:
    """A table of the paper; `model` is the network that was measured."""

    layout: Layout
    model: str
    datasets: tuple[str, ...]
    rows: tuple[MethodRow, ...]
    teachers: Mapping[str, Source] = field(default_factory=dict)
    """By data set: the dense network that those with noise were made from, a row of the table or not."""

    @property
    def name(self) -> str:
        """How its files are called: "table1", "table1-small_resnet" with another network than the paper's."""
        suffix = "" if self.model == self.layout.model else f"-{self.model}"
        return f"table{self.layout.number}{suffix}"

    @property
    def accuracies(self) -> tuple[str, ...]:
        """The paper's columns of accuracies, then the worst case, which the paper has not."""
        return (*self.layout.accuracies, WORST_CASE)

    @property
    def has_cost(self) -> bool:
        """Whether the paper prints BitOPs in this table."""
        return BITOPS in self.layout.columns

    def of(self, dataset: str) -> tuple[MethodRow, ...]:
        """The rows of one data set."""
        return tuple(row for row in self.rows if row.dataset == dataset)

    def wants(self, row: MethodRow) -> Callable[[Mapping[str, Any]], bool]:
        """Whether a network that is asked for (some columns of a frame of runs) belongs into `row`."""

        def is_wanted(network: Mapping[str, Any]) -> bool:
            same = network["model"] == self.model and network["dataset"] == row.dataset
            return same and is_of(network, row.method) and _is_tuned_on(network, row.objective)

        return is_wanted

    @cached_property
    def is_order_only(self) -> bool:
        """Whether no number is fit for a comparison with the printed one: then orders are compared."""
        return not any(entry.verdict for row in self.rows for entry in row.entries.values())

    def order(self, dataset: str, column: str, objective: str | None) -> Order | None:
        """How the methods come in `column` against the paper, noise fine-tuned on `objective`; None for none.

        Methods whose numbers do not belong together are left out.
        """
        rows = [row for row in self.of(dataset) if row.objective in (None, objective)]
        measured, printed = {}, {}
        first: Source | None = None
        for row in rows:
            entry = row.entries[column]
            if entry.measurement is None or entry.printed is None:
                continue
            first = first or row.source
            if not row.source.differing(column, first):
                measured[row.label], printed[row.label] = entry.measurement, entry.printed
        found = order(measured, printed)
        return found if found.pairs else None

    @property
    def objectives(self) -> tuple[str | None, ...]:
        """The images of fine-tuning that there are rows for; (None,) where there is one kind."""
        return tuple(dict.fromkeys(row.objective for row in self.rows if row.method.is_noise)) or (None,)


def build_paper_tables(
    runs: pl.DataFrame,
    *,
    name: str = "",
    expected: Iterable[Mapping[str, Any]] = (),
    attacks: Iterable[str] = (),
    comparer: Comparer | None = None,
) -> list[PaperTable]:
    """The tables of the paper that the runs of one tracked set give.

    `runs` are those of all stages (see `analysis.load_runs`), `name` that of the grid, `expected` the
    networks and `attacks` the columns that are wanted even if no run has them. A grid called `table1` or
    `small-table1` gives that table, whatever is there of it; another set gives the tables of which it has
    every row. `comparer` reads what runs know of single images; without one they are taken as independent.
    """
    compare = (comparer or Comparer()).by_image
    every = list(runs.iter_rows(named=True))
    attacked = [run for run in every if run["stage"] == "attack"]
    wanted = list(expected)
    stages = Stages.of(run for run in every if run["stage"] != "attack")
    named = NAMED.fullmatch(name)
    found = []
    for number in TABLES:
        if named is not None and int(named["number"]) != number:
            continue
        printed = layout(number)
        for model in _models(printed, [*attacked, *wanted], every_row=named is None):
            found.append(_table(printed, model, attacked, wanted, tuple(attacks), stages, compare))
    return found


def _models(printed: Layout, networks: Sequence[Run], *, every_row: bool) -> list[str]:
    """The networks to make the table of: the paper's if it is there, else whichever are."""
    usable: dict[str, set[Method]] = {}
    for one in networks:
        if one["dataset"] in printed.datasets and one["model"]:
            methods = usable.setdefault(one["model"], set())
            methods.update(method for method in printed.methods if is_of(one, method))
    complete = [
        model
        for model, methods in usable.items()
        if methods and (not every_row or len(methods) == len(printed.methods))
    ]
    return [printed.model] if printed.model in complete else sorted(complete)


def _table(
    printed: Layout,
    model: str,
    attacked: Sequence[Run],
    wanted: Sequence[Run],
    attacks: tuple[str, ...],
    stages: Stages,
    compare: ByImage,
) -> PaperTable:
    networks = [one for one in [*attacked, *wanted] if one["model"] == model]
    datasets = tuple(name for name in printed.datasets if any(one["dataset"] == name for one in networks))
    rows: list[MethodRow] = []
    teachers: dict[str, Source] = {}
    for dataset in datasets:
        here = [run for run in attacked if run["model"] == model and run["dataset"] == dataset]
        asked = [one for one in wanted if one["model"] == model and one["dataset"] == dataset]
        seeds = {one["seed"] for one in (asked or here) if one["seed"] is not None}
        block: list[MethodRow] = []
        for method in printed.methods:
            for objective in _objectives(method, [*here, *asked]):
                chosen = [one for one in here if is_of(one, method) and _is_tuned_on(one, objective)]
                wished = [one for one in asked if is_of(one, method) and _is_tuned_on(one, objective)]
                source = choose(chosen, wished, attacks, all_seeds=seeds)
                block.append(_row(printed, dataset, method, objective, source, stages))
        rows += _compared(printed, block, compare)
        there, wished = ([one for one in many if is_of(one, TEACHER)] for many in (here, asked))
        teachers[dataset] = choose(there, wished, attacks, all_seeds=seeds)
    return PaperTable(layout=printed, model=model, datasets=datasets, rows=tuple(rows), teachers=teachers)


def _objectives(method: Method, networks: Sequence[Run]) -> list[str | None]:
    """The images that networks with noise were fine-tuned on: the paper does not say, so each is a row."""
    if not method.is_noise:
        return [None]
    found = {one["objective"] for one in networks if one["defence"] != "dense" and one["objective"]}
    return sorted(found, key=["clean", "adversarial"].index) or [None]


def _is_tuned_on(one: Run, objective: str | None) -> bool:
    return objective is None or one["objective"] == objective


def _row(
    printed: Layout, dataset: str, method: Method, objective: str | None, source: Source, stages: Stages
) -> MethodRow:
    entries = {}
    for column in (*printed.accuracies, WORST_CASE):
        found = source.measurement(column)
        value = printed.printed.get((dataset, method, column))
        fit = fitness(source, column, stages, layout=printed, dataset=dataset)
        comparable = fit.is_comparable and value is not None and not isinstance(found, str)
        entries[column] = Entry(
            found=found,
            printed=value,
            fitness=fit,
            verdict=verdict(found, value) if comparable else None,  # type: ignore[arg-type]
        )
    return MethodRow(
        dataset=dataset,
        method=method,
        objective=objective,
        source=source,
        entries=entries,
        printed_cost=_printed_cost(printed, dataset, method),
    )


def _printed_cost(printed: Layout, dataset: str, method: Method) -> float | None:
    """Table 4 has no dense row: the one of table 1 is of the same network."""
    dense = printed if printed.has_improvements else layout(1)
    [baseline] = [each for each in dense.methods if each.is_baseline]
    bitops = printed.printed.get((dataset, method, BITOPS))
    return None if bitops is None else bitops / dense.printed[dataset, baseline, BITOPS]


def _compared(printed: Layout, block: list[MethodRow], compare: ByImage) -> list[MethodRow]:
    """The rows of one data set with ranks and improvements."""
    ranks = {
        column: _ranks(
            [row.entries[column].measurement for row in block], [row.source for row in block], column
        )
        for column in (*printed.accuracies, WORST_CASE)
        if column != CLEAN
    }
    costs = [row.source.cost() for row in block]
    cheapest = min((cost for cost in costs if cost is not None), default=None)
    baseline = next((row for row in block if row.method.is_baseline), None)
    found = []
    for place, row in enumerate(block):
        entries = {
            column: replace(entry, rank=ranks[column][place] if column in ranks else 0)
            for column, entry in row.entries.items()
        }
        improvements = None
        if printed.has_improvements and row.method.is_noise and baseline is not None:
            improvements = {column: _improvement(row, baseline, column, compare) for column in entries}
        found.append(
            replace(
                row,
                entries=entries,
                cost_rank=int(cheapest is not None and costs[place] == cheapest),
                improvements=improvements,
            )
        )
    return found


def _ranks(numbers: Sequence[Measurement | None], sources: Sequence[Source], column: str) -> list[int]:
    """1 for the best, 2 for the second best; 0 for all where the numbers do not belong together."""
    having = [source for source, number in zip(sources, numbers, strict=True) if number is not None]
    if len(having) < 2 or any(source.differing(column, having[0]) for source in having[1:]):
        return [0] * len(numbers)
    values = sorted({number.value for number in numbers if number is not None}, reverse=True)[:2]
    return [values.index(n.value) + 1 if n is not None and n.value in values else 0 for n in numbers]


def _improvement(row: MethodRow, baseline: MethodRow, column: str, compare: ByImage) -> Improvement:
    now, before = row.entries[column], baseline.entries[column]
    printed = None if now.printed is None or before.printed is None else now.printed - before.printed
    if now.measurement is None or before.measurement is None or row.source.differing(column, baseline.source):
        return Improvement(ours=None, printed=printed)
    first, second = ({run["seed"]: run for run in each.source.runs} for each in (row, baseline))
    common = [seed for seed in first if seed in second]
    paired = compare(first[common[0]], second[common[0]], column) if len(common) == 1 else None
    ours = paired.difference if paired else improvement(now.measurement, before.measurement)
    return Improvement(ours=ours, printed=printed)


def improvement(now: Measurement, before: Measurement) -> Difference:
    """How much better `now` is: with several common seeds the mean of their differences with a t-interval.

    Both networks of a seed come from one dense teacher, so that the seeds are paired. With one seed, of which
    the images are not known one by one, the interval is that of two independent samples of images.
    """
    first, second = (dict(zip(each.seeds, each.shares, strict=True)) for each in (now, before))
    common = [seed for seed in first if seed in second]
    if len(common) >= 2:
        found = spread([first[seed].value - second[seed].value for seed in common])
        low, high = found.interval or (found.mean, found.mean)
        return Difference(value=found.mean, low=low, high=high)
    if len(common) == 1:
        return difference(first[common[0]], second[common[0]])
    return difference(now, before)
