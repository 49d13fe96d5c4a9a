"""A table of the paper as a sheet: ours with intervals, the printed values, the verdicts."""

from collections.abc import Sequence

from analysis import names
from analysis.claims import Fitness
from analysis.masking import TESTS
from analysis.measurement import MISSING, Measurement, Source
from analysis.paper_layout import CLEAN, DATASETS, column_title
from analysis.paper_tables import Entry, MethodRow, PaperTable
from analysis.provenance import protocol_of, standing
from analysis.remedy import Remedy
from analysis.tables.robustness import WORST_CASE
from analysis.tables.sheet import Sheet, SheetBlock, SheetCell, SheetLine
from analysis.verdict import RULE

ANOTHER_PROTOCOL = "\u2020"
NOBODY = "no experiment of this set computes it"
BITOPS_HEADING, MASKED_HEADING = "BitOPs", "Masked gradients"
# Below so many images a second digit after the point is less than one image.
FINE = 10_000
SUBJECTS = {
    1: "noise beside random defences",
    2: "noise beside random defences",
    3: "noise beside the best known adversarial trainings",
    4: "ratios beside N:M patterns",
}


def to_sheet(table: PaperTable, *, remedy: Remedy) -> Sheet:
    """The table in the paper's layout; `remedy` is what computes what is missing."""
    wide = table.layout.number == 3  # the only one whose data sets stand side by side
    datasets = [(name, DATASETS[name].title) for name in table.datasets]
    if wide:
        headings = [heading for _ in datasets for heading in _headings(table)]
        blocks = [SheetBlock(title="", lines=_side_by_side(table, remedy))]
        groups = tuple((title, len(_headings(table))) for _, title in datasets)
    else:
        headings, groups = _headings(table), ()
        blocks = [
            SheetBlock(title=title if len(datasets) > 1 else "", lines=_block(table, name, remedy))
            for name, title in datasets
        ]
    return Sheet(
        name=table.name,
        title=_title(table),
        caption=_caption(table),
        headings=("Method", *headings),
        groups=groups,
        blocks=tuple(blocks),
        notes=tuple(_notes(table, remedy)),
    )


def _title(table: PaperTable) -> str:
    where = names.listed(DATASETS[name].title for name in table.datasets)
    return f"Table {table.layout.number} of the paper, {table.model} on {where}: {_subject(table)}"


def _subject(table: PaperTable) -> str:
    return SUBJECTS[table.layout.number]


def _headings(table: PaperTable) -> list[str]:
    cost = [BITOPS_HEADING] if table.has_cost else []
    attacks = [column_title(column) for column in table.layout.accuracies]
    return [*attacks, *cost, names.column_name(WORST_CASE), MASKED_HEADING]


def _block(table: PaperTable, dataset: str, remedy: Remedy) -> tuple[SheetLine, ...]:
    """The rows of one data set, each of the paper's own networks with its improvement."""
    lines = []
    for row in table.of(dataset):
        details = (standing(_base(row)),)
        lines.append(SheetLine(label=row.label, details=details, cells=tuple(_cells(table, row, remedy))))
        if row.improvements is not None:
            lines.append(
                SheetLine(label="Improvement", cells=tuple(_improvement(table, row)), is_derived=True)
            )
    return (*lines, *_orders(table, [dataset]))


def _side_by_side(table: PaperTable, remedy: Remedy) -> tuple[SheetLine, ...]:
    """Table 3: a row of each method with all its data sets."""
    by_label: dict[str, dict[str, MethodRow]] = {}
    for row in table.rows:
        by_label.setdefault(row.label, {})[row.dataset] = row
    lines = []
    for label, rows in by_label.items():
        cells = [
            cell
            for name in table.datasets
            for cell in (
                _cells(table, rows[name], remedy) if name in rows else [SheetCell() for _ in _headings(table)]
            )
        ]
        stands = dict.fromkeys(standing(_base(row)) for row in rows.values())
        lines.append(SheetLine(label=label, details=tuple(stands), cells=tuple(cells)))
    return (*lines, *_orders(table, table.datasets))


def _base(row: MethodRow) -> Fitness:
    """What the row's numbers have in common: the worst case has no protocol of the paper to depart from."""
    return row.entries[WORST_CASE].fitness


def _cells(table: PaperTable, row: MethodRow, remedy: Remedy) -> list[SheetCell]:
    cells = [_accuracy(table, row, column, remedy) for column in table.layout.accuracies]
    if table.has_cost:
        cells.append(_cost(table, row, remedy))
    return [*cells, _accuracy(table, row, WORST_CASE, remedy), masking_cell(row.source)]


def _accuracy(table: PaperTable, row: MethodRow, column: str, remedy: Remedy) -> SheetCell:
    entry = row.entries[column]
    paper = _paper(entry)
    if entry.measurement is None:
        assert isinstance(entry.found, str)
        hover = entry.found
        if hover.startswith(MISSING):
            hover += f": {remedy.computing([(table.wants(row), [column])]) or NOBODY}"
        return SheetCell(main=entry.found, details=paper, is_gap=True, hover=hover)
    departs = set(entry.fitness.against_claim) - set(_base(row).against_claim)
    return SheetCell(
        main=_number(entry.measurement) + (ANOTHER_PROTOCOL if departs else ""),
        details=(*spread_details(entry.measurement), *paper, *_word(entry)),
        rank=entry.rank,
        hover=f"{protocol_of(row.source, column)}. {standing(entry.fitness)}",
    )


def _digits(measured: Measurement) -> int:
    return 2 if measured.images >= FINE else 1


def _number(measured: Measurement) -> str:
    digits = _digits(measured)
    deviation = measured.spread.deviation
    spread = "" if deviation is None else f" \u00b1 {names.percent(deviation, digits)}"
    return names.percent(measured.value, digits) + spread


def spread_details(measured: Measurement) -> tuple[str, ...]:
    """The interval, and with several seeds that over the images beside it."""
    digits = _digits(measured)

    def ends(interval: tuple[float, float]) -> str:
        return " to ".join(names.percent(end, digits) for end in interval)

    if measured.spread.interval is None:
        return (ends(measured.interval),)
    return f"seeds {ends(measured.interval)}", f"images {ends(measured.image_interval)}"


def _paper(entry: Entry) -> tuple[str, ...]:
    if entry.printed is None:
        return ()
    printed = f"paper {names.percent(entry.printed, 2)}"
    if entry.measurement is None or entry.difference is None:
        return (printed,)
    return (f"{printed}, {names.points(entry.difference, digits=_digits(entry.measurement))}",)


def _word(entry: Entry) -> tuple[str, ...]:
    if entry.verdict is None:
        return ()
    return (f"{entry.verdict.word} (tolerance {names.percent(entry.verdict.tolerance, 2)})",)


def _cost(table: PaperTable, row: MethodRow, remedy: Remedy) -> SheetCell:
    cost = row.source.cost()
    printed = _reduction(row.printed_cost)
    paper = (f"paper {printed}",) if printed else ()
    if cost is None:
        hover = f"{MISSING}: {remedy.computing([(table.wants(row), [CLEAN])]) or NOBODY}"
        return SheetCell(main=MISSING, details=paper, is_gap=True, hover=hover)
    bitops = next(run["bitops_nominal"] for run in row.source.runs if run["bitops_nominal"] is not None)
    ours = _reduction(cost)
    return SheetCell(
        main=names.magnitude(bitops),
        details=(*([ours] if ours else []), *paper),
        rank=row.cost_rank,
        hover="BitOPs of one image from the nominal ratio or pattern, and the change against dense",
    )


def _reduction(cost: float | None) -> str:
    return "" if cost is None or cost == 1 else names.reduction(1 - cost)


def masking_cell(source: Source) -> SheetCell:
    """How many tests for masked gradients are raised, in all runs, and which."""
    verdicts = source.verdicts
    if not verdicts:
        return SheetCell(main="not tested", is_gap=True)
    counts = sorted({len(verdict.raised) for verdict in verdicts})
    raised = {name for verdict in verdicts for name in verdict.raised}
    if not raised:
        return SheetCell(main="no sign")
    which = [name.replace("_", " ") for name in [*TESTS, *sorted(raised - set(TESTS))] if name in raised]
    number = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
    return SheetCell(
        main=f"{number} of {len(verdicts[0].tests)}", hover=", ".join(which), details=tuple(which)
    )


def _improvement(table: PaperTable, row: MethodRow) -> list[SheetCell]:
    assert row.improvements is not None
    cells = {}
    for column, found in row.improvements.items():
        paper = () if found.printed is None else (f"paper {names.points(found.printed, digits=2)}",)
        if found.ours is None:
            cells[column] = SheetCell(details=paper)
            continue
        ends = f"{names.points(found.ours.low)} to {names.points(found.ours.high)}"
        cells[column] = SheetCell(main=names.points(found.ours.value), details=(ends, *paper))
    accuracies = [cells[column] for column in table.layout.accuracies]
    cost = row.source.cost()
    printed = _reduction(row.printed_cost)
    saved = SheetCell(main=_reduction(cost), details=(f"paper {printed}",) if printed else ())
    return [*accuracies, *([saved] if table.has_cost else []), cells[WORST_CASE], SheetCell()]


def _orders(table: PaperTable, datasets: Sequence[str]) -> list[SheetLine]:
    """How the methods come in each column against the paper: a row for each kind of fine-tuning."""
    lines = []
    for objective in table.objectives:
        cells: list[SheetCell] = []
        for dataset in datasets:
            for column in table.layout.accuracies:
                found = table.order(dataset, column, objective)
                cells.append(
                    SheetCell()
                    if found is None
                    else SheetCell(
                        main=f"{found.as_printed} of {found.pairs}",
                        details=(f"{found.reversed} reversed", f"{found.unclear} unclear"),
                    )
                )
            cells += [SheetCell()] * (len(_headings(table)) - len(table.layout.accuracies))
        if any(cell.main for cell in cells):
            suffix = f", noise fine-tuned on {objective} images" if objective else ""
            label = f"Pairs of methods in the paper's order{suffix}"
            lines.append(SheetLine(label=label, cells=tuple(cells), is_derived=True, of_all=True))
    return lines


def _caption(table: PaperTable) -> str:
    words = [
        f"Table {table.layout.number} of Liu et al. (2024) from tracked runs with {table.model}: "
        f"{_subject(table)}. Accuracy in percent; bold the best of a column of robust accuracies, underlined "
        "the second, bold the fewest BitOPs.",
        "Below each number its 95% interval, what the paper prints, and ours minus that.",
        "AutoAttack is that of torchattacks, which the paper uses. Worst case and masked gradients are not "
        "in the paper: images that are right under every attack that counts, and how many tests for masked "
        "gradients are raised.",
    ]
    several = any(entry.measurement and entry.measurement.spread.count > 1 for entry in _entries(table))
    if several:
        words.append(
            "With several seeds: mean and standard deviation; the interval of the mean over seeds (Student), "
            "and below it that over the choice of images (Wilson)."
        )
    else:
        words.append("One seed each: intervals (Wilson) cover the choice of images, not of the seed.")
    if any(row.improvements for row in table.rows):
        words.append(
            "Improvement is against Overfitting Adversarial Training, by seed where there are several, image "
            "by image where the runs tell."
        )
    if any(objective for objective in table.objectives):
        words.append("The paper does not say what images its fine-tuning sees: each kind is a row.")
    return " ".join(words)


def _entries(table: PaperTable) -> list[Entry]:
    return [entry for row in table.rows for entry in row.entries.values()]


def _notes(table: PaperTable, remedy: Remedy) -> list[str]:
    notes = []
    others = list(dict.fromkeys(why for entry in _entries(table) for why in entry.fitness.against_comparison))
    if table.is_order_only:
        reasons = list(
            dict.fromkeys(why for row in table.rows if row.source.runs for why in _base(row).against_claim)
        )
        because = "; ".join([*others, *reasons])
        notes.append(
            "Compared with the paper in order only, since these are not the paper's networks and protocol in "
            f"full{f' ({because})' if because else ''}. A pair of methods is in the paper's order, or "
            "reversed, where the 95% interval of its difference leaves zero out."
        )
    else:
        notes.append(f"Verdicts: {RULE}")
    if departures := _departures(table):
        notes.append(f"{ANOTHER_PROTOCOL} Another protocol than the paper's: {'; '.join(departures)}.")
    gaps = [
        (row, column)
        for row in table.rows
        for column, entry in row.entries.items()
        if isinstance(entry.found, str) and entry.found.startswith(MISSING)
    ]
    if gaps:
        shown = [
            f"{row.label}, {column_title(column)} on {DATASETS[row.dataset].title}" for row, column in gaps
        ]
        shown = shown if len(shown) <= 6 else [*shown[:5], f"{len(shown) - 5} more"]
        lacking = remedy.advice([(table.wants(row), [column]) for row, column in gaps])
        notes.append(f"Missing: {'; '.join(shown)}. {lacking}.")
    commits = dict.fromkeys(commit[:10] for row in table.rows for commit in row.source.commits)
    if len(commits) > 1:
        notes.append(f"The rows come from different commits of the code: {', '.join(commits)}.")
    notes.append(f"The exact protocol behind every number: {table.name}-protocol.md and {table.name}.csv.")
    return notes


def _departures(table: PaperTable) -> list[str]:
    reasons = (
        reason
        for row in table.rows
        for entry in row.entries.values()
        if entry.measurement
        for reason in entry.fitness.against_claim
        if reason not in _base(row).against_claim
    )
    return list(dict.fromkeys(reasons))
