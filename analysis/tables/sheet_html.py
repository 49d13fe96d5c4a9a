"""A sheet as an HTML fragment: a section whose numbers say on hover how they came about."""

import re

from markupsafe import Markup, escape

from analysis.tables.sheet import BEST, SECOND, Sheet, SheetCell, SheetLine


def to_html(sheet: Sheet) -> Markup:
    """The section; classes are those of the report's style sheet, and it is readable without it."""
    lines = [
        f'<section id="{escape(sheet.name)}" class="sheet">',
        f"<h2>{escape(sheet.title)}</h2>",
        '<div class="scroll">',
        '<table class="results wide">',
        f"<caption>{escape(sheet.caption)}</caption>",
        "<thead>",
    ]
    if sheet.groups:
        spans = "".join(
            f'<th scope="colgroup" colspan="{columns}">{escape(title)}</th>'
            for title, columns in sheet.groups
        )
        lines.append(f"<tr><td></td>{spans}</tr>")
    headings = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in sheet.headings)
    lines += [f"<tr>{headings}</tr>", "</thead>"]
    for block in sheet.blocks:
        lines.append("<tbody>")
        if block.title:
            span = len(sheet.headings)
            title = escape(block.title)
            lines.append(f'<tr class="block"><th scope="rowgroup" colspan="{span}">{title}</th></tr>')
        lines += [_row(line, sheet.headings) for line in block.lines]
        lines.append("</tbody>")
    lines += ["</table>", "</div>"]
    if sheet.notes:
        lines += ["<ul>", *(f"<li>{_note(note)}</li>" for note in sheet.notes), "</ul>"]
    return Markup("\n".join([*lines, "</section>"]) + "\n")


def _note(note: str) -> str:
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(note)))


def _row(line: SheetLine, headings: tuple[str, ...]) -> str:
    kinds = [name for name, is_so in (("derived", line.is_derived), ("last", line.of_all)) if is_so]
    kind = f' class="{" ".join(kinds)}"' if kinds else ""
    details = _details(line.details)
    cells = "".join(_cell(cell, heading) for cell, heading in zip(line.cells, headings[1:], strict=True))
    return f'<tr{kind}><th scope="row">{escape(line.label)}{details}</th>{cells}</tr>'


def _cell(cell: SheetCell, heading: str) -> str:
    if not cell.main and not cell.details:
        return f'<td class="nothing" data-heading="{escape(heading)}"></td>'
    main = str(escape(cell.main))
    if cell.rank == BEST:
        main = f"<strong>{main}</strong>"
    elif cell.rank == SECOND:
        main = f"<u>{main}</u>"
    # a title is out of reach without a mouse: the notes file has all of them
    hover = f' title="{escape(cell.hover)}"' if cell.hover else ""
    kind = ' class="missing"' if cell.is_gap else ""
    title = escape(heading)
    return f'<td{kind} data-heading="{title}"><span{hover}>{main}</span>{_details(cell.details)}</td>'


def _details(details: tuple[str, ...]) -> str:
    """Small lines that break at their commas only."""
    if not details:
        return ""
    lines = []
    for detail in details:
        *first, last = detail.split(", ")
        parts = [*(f"{part}," for part in first), last]
        spans = " ".join(f'<span class="part">{escape(part)}</span>' for part in parts)
        lines.append(f'<span class="interval">{spans}</span>')
    return f'<span class="details">{"".join(lines)}</span>'
