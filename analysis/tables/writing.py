"""The robustness table as text: Markdown, and the cells that the HTML and console tables share."""

from collections.abc import Sequence
from dataclasses import dataclass

from analysis import names
from analysis.comparison import Share
from analysis.notes import missing_cells
from analysis.remedy import Remedy
from analysis.tables.robustness import MISSING, RobustnessTable, Row


@dataclass(frozen=True, kw_only=True)
class Cell:
    """`main` is the number, `detail` its interval or "" where it has none."""

    main: str
    detail: str = ""


def headings(table: RobustnessTable) -> list[str]:
    """The headings of all columns, the one of the row labels first."""
    cost = ["BitOPs", "Reduction", *(["Measured"] if _has_measured(table) else []), "Paper"]
    return ["Network", *(names.column_name(column) for column in table.columns), *cost]


def cells(table: RobustnessTable, row: Row) -> list[Cell]:
    """The cells of `row` below `headings(table)[1:]`."""
    accuracies = [accuracy_cell(row.cells[column]) for column in table.columns]
    nominal = Cell(main="" if row.is_dense else names.reduction(row.reduction_nominal) or MISSING)
    measured = Cell(main="" if row.is_dense else names.reduction(row.reduction_measured) or MISSING)
    bitops = Cell(main=names.magnitude(row.bitops_nominal) or MISSING)
    printed = Cell(main=names.reduction(row.printed.reduction) if row.printed else "")
    return [*accuracies, bitops, nominal, *([measured] if _has_measured(table) else []), printed]


def accuracy_cell(share: Share | None) -> Cell:
    """An accuracy in percent with its 95% Wilson interval, or "missing"."""
    if share is None:
        return Cell(main=MISSING)
    low, high = share.interval
    return Cell(main=names.percent(share.value), detail=f"{names.percent(low)} to {names.percent(high)}")


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
    if "worst_case" in table.columns:
        words.append("Worst case counts the images that are right under every attack of the row.")
    if any(row.identity["objective"] for row in table.rows):
        words.append("Clean and adversarial after a ratio or pattern name the images of its fine-tuning.")
    if len({row.identity["seed"] for row in table.rows}) == 1:
        words.append("One training (one seed) each: intervals cover the choice of images, not of the seed.")
    words.append(
        "BitOPs are those of one image; the reduction is against dense, from the nominal ratio or pattern."
    )
    if _has_measured(table):
        words.append("Measured is the reduction with the shares that the masks really had.")
    networks = sorted({row.printed.network for row in table.rows if row.printed})
    if networks:
        words.append(f"Paper is the reduction that Liu et al. (2024) print for {' and '.join(networks)}.")
    return " ".join(words)


def to_markdown(table: RobustnessTable, *, title: str, flags: Sequence[str], remedy: Remedy) -> str:
    """The table with its caption, the flags and what is missing, with the commands for that."""
    lines = [f"# {title}", "", caption(table), ""]
    if flags:
        lines += ["**Caution:**", "", *(f"- {flag}" for flag in flags), ""]
    titles = headings(table)
    lines += [_line(titles), _line(["---", *["---:"] * (len(titles) - 1)])]
    lines += [_line([row.label, *(_inline(entry) for entry in cells(table, row))]) for row in table.rows]
    lacking = missing_cells(table)
    if lacking:
        lines += [
            "",
            f"Missing numbers: {remedy}.",
            "",
            *(f"- {label}, {column}" for label, column in lacking),
        ]
    return "\n".join(lines) + "\n"


def _line(entries: Sequence[str]) -> str:
    return f"| {' | '.join(entry.replace('|', chr(92) + '|') for entry in entries)} |"


def _inline(entry: Cell) -> str:
    return f"{entry.main} ({entry.detail})" if entry.detail else entry.main


def _has_measured(table: RobustnessTable) -> bool:
    return any(row.reduction_measured is not None for row in table.rows)
