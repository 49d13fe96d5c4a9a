"""All tables as one Markdown file."""

from collections.abc import Iterable, Sequence

from analysis import missing
from analysis.remedy import Remedy
from analysis.tables import adaptive, masking
from analysis.tables.robustness import MISSING, RobustnessTable
from analysis.tables.writing import Cell, caption, cells, headings


def to_markdown(table: RobustnessTable, *, title: str, flags: Sequence[str], remedy: Remedy) -> str:
    """The tables with their captions, the flags and what is missing, with the commands for that."""
    lines = [f"# {title}", "", caption(table), ""]
    if flags:
        lines += ["**Caution:**", "", *(f"- {flag}" for flag in flags), ""]
    lines += _grid(
        headings(table), ([row.label, *map(_inline, cells(table, row))] for row in table.rows), align="---:"
    )
    if table.missing:
        lines += ["", f"Missing numbers: {missing.advice(table, remedy)}.", ""]
        lines += [f"- {line}" for line in missing.listed(table, remedy)]
    if adaptive.columns(table):
        rows = ([row.label, *map(_inline, adaptive.cells(table, row))] for row in table.rows)
        lines += ["", f"## {adaptive.TITLE}", "", adaptive.caption(table), ""]
        lines += _grid(adaptive.headings(table), rows, align="---:")
    if table.has_masking:
        findings = ([row.label, *map(_finding, masking.cells(table, row))] for row in table.rows)
        lines += ["", f"## {masking.TITLE}", "", masking.INTRODUCTION, "", masking.caption(table), ""]
        lines += _grid(masking.headings(table), findings, align="---")
    return "\n".join(lines) + "\n"


def _grid(titles: Sequence[str], rows: Iterable[Sequence[str]], *, align: str) -> list[str]:
    return [_line(titles), _line(["---", *[align] * (len(titles) - 1)]), *map(_line, rows)]


def _line(entries: Sequence[str]) -> str:
    return f"| {' | '.join(entry.replace('|', chr(92) + '|') for entry in entries)} |"


def _inline(entry: Cell) -> str:
    return f"{entry.main} ({entry.detail})" if entry.detail else entry.main


def _finding(found: masking.Finding) -> str:
    words = ", ".join(found.numbers) or MISSING
    return f"**raised**: {words}" if found.raised else words
