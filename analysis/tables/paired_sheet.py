"""The paired tests of a table of the paper as a sheet: who is better on the same images."""

import re
from collections.abc import Sequence

from analysis import names
from analysis.paired import BEST_BASELINE, PairedTest
from analysis.paper_layout import DATASETS, column_title
from analysis.paper_tables import PaperTable
from analysis.tables.sheet import BEST, Sheet, SheetBlock, SheetCell, SheetLine

LEVEL = 0.05
CITATION = re.compile(r" \([^()]*\d{4}\)$")


def to_sheet(table: PaperTable, tests: Sequence[PairedTest], *, without_records: int = 0) -> Sheet:
    """`tests` in the columns of `table`; `without_records` runs could not be asked about their images."""
    columns = [column for column in table.accuracies if any(test.column == column for test in tests)]
    blocks = [
        SheetBlock(title=DATASETS[name].title if len(table.datasets) > 1 else "", lines=lines)
        for name in table.datasets
        if (lines := _lines([test for test in tests if test.dataset == name], columns))
    ]
    notes = []
    if without_records:
        one = without_records == 1
        notes.append(
            f"{without_records} run{'' if one else 's'} without {'a table' if one else 'tables'} of single "
            "images: not tested."
        )
    return Sheet(
        name=f"{table.name}-tests",
        title=f"Table {table.layout.number}: pairs of networks on the same images",
        caption=_caption(len(tests)),
        headings=("Pair", *(column_title(column) for column in columns)),
        blocks=tuple(blocks),
        notes=tuple(notes),
    )


def _caption(count: int) -> str:
    return (
        "Difference in percentage points between two networks of one seed on the same images; below it on "
        "how many images the first alone and the second alone is right, and the two-sided p-value of "
        f"McNemar's exact test, corrected for all {count} tests of this table (Holm). Bold: at most {LEVEL}. "
        "Of a random network, single images count as on one fresh noise draw (in the worst case as on most "
        "draws), while the tables of accuracies have means over draws. The best baseline is that of each "
        "column, chosen after the fact."
    )


def _lines(tests: Sequence[PairedTest], columns: Sequence[str]) -> tuple[SheetLine, ...]:
    several = len({test.seed for test in tests}) > 1
    rows: dict[tuple[str, str, int | None], dict[str, PairedTest]] = {}
    for test in tests:
        rows.setdefault((test.ours, test.role, test.seed), {})[test.column] = test
    lines = []
    for (ours, role, seed), found in rows.items():
        details = (f"against the {role}", *((f"seed {seed}",) if several else ()))
        cells = tuple(_cell(found[column]) if column in found else SheetCell() for column in columns)
        lines.append(SheetLine(label=ours, details=details, cells=cells))
    return tuple(lines)


def _cell(test: PairedTest) -> SheetCell:
    # whose method it is stands in the table of accuracies
    against = (f"against {CITATION.sub('', test.against)}",) if test.role == BEST_BASELINE else ()
    return SheetCell(
        main=names.points(test.difference),
        details=(*against, f"{test.only_ours} : {test.only_theirs}", names.p_text(test.adjusted)),
        rank=BEST if test.adjusted <= LEVEL else 0,
        hover=f"{test.images} images; p = {test.p_value:.2g} before the correction",
    )
