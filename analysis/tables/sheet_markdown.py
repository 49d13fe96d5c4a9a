"""A sheet as Markdown with the few HTML elements that its readers know: br, ins and small."""

import html
import re

from analysis.tables.sheet import BEST, SECOND, Sheet, SheetCell, SheetLine

SPECIAL = re.compile(r"([\\`*_{}\[\]|~#])")


def to_markdown(sheet: Sheet) -> str:
    """The table with its caption and notes, as a section."""
    lines = [f"## {escape(sheet.title)}", "", escape(sheet.caption), ""]
    headings = list(sheet.headings)
    place = 1
    for title, columns in sheet.groups:  # Markdown has one row of headings only
        for number in range(place, place + columns):
            headings[number] = f"{title}: {headings[number]}" if title else headings[number]
        place += columns
    lines.append(_line([escape(heading) for heading in headings]))
    lines.append(_line(["---", *["---:"] * (len(headings) - 1)]))
    for block in sheet.blocks:
        if block.title:
            lines.append(_line([f"**{escape(block.title)}**", *[""] * (len(headings) - 1)]))
        lines += [_line([_label(line), *map(_cell, line.cells)]) for line in block.lines]
    if sheet.notes:
        lines += ["", *(f"- {_note(note)}" for note in sheet.notes)]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """`text` such that Markdown shows it as it is, on one line.

    >>> escape("Dong & Xu, a_b | c")
    'Dong &amp; Xu, a\\\\_b \\\\| c'
    """
    return SPECIAL.sub(r"\\\1", html.escape(" ".join(text.split()), quote=False))


def _note(note: str) -> str:
    """A note: commands between backticks stay as they are."""
    parts = note.split("`")
    if len(parts) % 2 == 0:
        return escape(note)
    return "`".join(part if place % 2 else escape(part) for place, part in enumerate(parts))


def _label(line: SheetLine) -> str:
    label = escape(line.label)
    main = f"*{label}*" if line.is_derived else label
    return "<br>".join([main, *(f"<small>{escape(detail)}</small>" for detail in line.details)])


def _cell(cell: SheetCell) -> str:
    main = escape(cell.main)
    if cell.is_gap:
        main = f"*{main}*" if main else ""
    elif cell.rank == BEST:
        main = f"**{main}**"
    elif cell.rank == SECOND:
        main = f"<ins>{main}</ins>"
    return "<br>".join([main, *(f"<small>{escape(detail)}</small>" for detail in cell.details)])


def _line(entries: list[str]) -> str:
    return f"| {' | '.join(entries)} |"
