"""The main table as text: the cells that Markdown, HTML and the console share, and its caption."""

from dataclasses import dataclass

from analysis import names
from analysis.comparison import Share
from analysis.masking import Verdict
from analysis.protocol import DETERMINISTIC_ONLY, MINIMAL_NORM, in_pixels
from analysis.tables.robustness import MASKING, MISSING, WORST_CASE, RobustnessTable, Row

NOT_DEFINED = "not defined"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """`main` is the number or word, `detail` its interval or what it consists of; "" where it has none."""

    main: str
    detail: str = ""

    @property
    def is_gap(self) -> bool:
        """Whether there is neither a number nor a verdict."""
        return self.main in ("", MISSING, NOT_DEFINED)


def headings(table: RobustnessTable) -> list[str]:
    """The headings of all columns, the one of the row labels first."""
    cost = ["BitOPs", "Reduction", *(["Measured"] if table.has_measured else []), "Paper"]
    masking = [names.column_name(MASKING)] if table.has_masking else []
    return ["Network", *(names.column_name(column) for column in table.main_columns), *cost, *masking]


def cells(table: RobustnessTable, row: Row) -> list[Cell]:
    """The cells of `row` below `headings(table)[1:]`."""
    nothing = "" if row.is_dense else MISSING
    nominal = Cell(main=names.reduction(row.reduction_nominal) or nothing)
    measured = Cell(main=names.reduction(row.reduction_measured) or nothing)
    bitops = Cell(main=names.magnitude(row.bitops_nominal) or MISSING)
    printed = Cell(main=names.reduction(row.printed.reduction) if row.printed else "")
    cost = [bitops, nominal, *([measured] if table.has_measured else []), printed]
    masking = [masking_cell(row.masking)] if table.has_masking else []
    return [*accuracy_cells(table, row, table.main_columns), *cost, *masking]


def accuracy_cells(table: RobustnessTable, row: Row, columns: tuple[str, ...]) -> list[Cell]:
    """The cells of `row` in `columns`."""
    return [
        accuracy_cell(row.cells[column])
        if row.cells[column] or table.is_defined(row, column)
        else Cell(main=NOT_DEFINED)
        for column in columns
    ]


def accuracy_cell(share: Share | None) -> Cell:
    """An accuracy in percent with its 95% Wilson interval, or "missing"."""
    if share is None:
        return Cell(main=MISSING)
    low, high = share.interval
    return Cell(main=names.percent(share.value), detail=f"{names.percent(low)} to {names.percent(high)}")


def masking_cell(verdict: Verdict | None) -> Cell:
    """How many tests for masked gradients are raised, and which, in words."""
    if verdict is None:
        return Cell(main=MISSING)
    if not verdict.raised:
        return Cell(main="no sign")
    which = ", ".join(name.replace("_", " ") for name in verdict.raised)
    return Cell(main=f"{len(verdict.raised)} of {len(verdict.tests)}", detail=which)


def caption(table: RobustnessTable) -> str:
    """What the table's numbers are, in plain text."""
    counts = table.images()
    on = (
        f"on {counts[0]} test images"
        if len(counts) == 1
        else f"on {' or '.join(map(str, counts)) or 'no'} test images"
    )
    words = [
        f"Accuracy in percent {on}, with its 95% Wilson interval.",
        "Attacks differentiate the deployed arithmetic (blocked low-precision path) unless the column says"
        " straight-through.",
    ]
    words += worst_case(table) + random_networks(table)
    if any(row.identity["objective"] for row in table.rows):
        words.append("Clean and adversarial after a ratio or pattern name the images of its fine-tuning.")
    if len({row.identity["seed"] for row in table.rows}) == 1:
        words.append("One training (one seed) each: intervals cover the choice of images, not of the seed.")
    words.append(
        "BitOPs are those of one image; the reduction is against dense, from the nominal ratio or pattern."
    )
    if table.has_measured:
        words.append("Measured is the reduction with the shares that the masks really had.")
    networks = sorted({row.printed.network for row in table.rows if row.printed})
    if networks:
        words.append(f"Paper is the reduction that Liu et al. (2024) print for {' and '.join(networks)}.")
    if table.has_masking:
        words.append(
            "Masked gradients is how many of the tests for them are raised: a reason for doubt, not a proof."
        )
    return " ".join(words)


def worst_case(table: RobustnessTable) -> list[str]:
    """What the worst case counts and what it does not, in sentences; none if there is no such column."""
    if WORST_CASE not in table.columns:
        return []
    counted = [column for column in table.columns if table.counts(column)]
    adaptive = [names.column_name(column) for column in table.adaptive_columns if column in counted]
    included = f", {names.listed(adaptive)} included" if adaptive else ""
    words = [
        "Worst case counts the images that are right under every attack of the protocols at "
        f"{_radius(table, counted)}{included}."
    ]
    others = [column for column in table.main_columns if column not in (*counted, *names.WHOLE)]
    minimal = [column for column in others if table.kind(column) in MINIMAL_NORM]
    apart = [column for column in others if column not in minimal]
    left_out = [f"attacks that have no radius ({_listed(minimal)})"] if minimal else []
    left_out += [f"attacks set apart from the protocols ({_listed(apart)})"] if apart else []
    if left_out:
        words.append(f"It leaves out {names.listed(left_out)}.")
    return words


def random_networks(table: RobustnessTable) -> list[str]:
    """What is different about random networks, in sentences; none if there are none."""
    if not any(row.is_random for row in table.rows):
        return []
    words = [
        "Of a random network, each accuracy is the mean over fresh noise draws, and the worst case is that "
        "of the images that the attacks together found worst, or of the one attack that leaves less: few "
        "draws do not tell every worst image."
    ]
    undefined = [column for column in table.columns if table.kind(column) in DETERMINISTIC_ONLY]
    if undefined:
        words.append(
            f"{_listed(undefined)} is defined for deterministic networks only; "
            "the worst case of a random one is without it."
        )
    return words


def _radius(table: RobustnessTable, columns: list[str]) -> str:
    """The radius of the attacks `columns` in words, as far as it was tracked."""
    tracked = {eps for column in columns if (eps := table.settings.get(column, {}).get("eps"))}
    radii = sorted(map(in_pixels, tracked))
    if len(radii) > 1:
        return f"the radii {names.listed(radii)}"
    return f"their common radius ({radii[0]})" if radii else "their common radius"


def _listed(columns: list[str]) -> str:
    """The names of `columns`; a whole grid in a few words."""
    grid = [
        column for column in columns if (known := names.KNOWN_ATTACK.fullmatch(column)) and known["radius"]
    ]
    named = [names.column_name(column) for column in columns if len(grid) <= 3 or column not in grid]
    return names.listed([*named, *(["the grid of radii and steps"] if len(grid) > 3 else [])])
