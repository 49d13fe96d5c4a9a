r"""A sheet as a LaTeX table: `\usepackage{booktabs,graphicx}`, any engine."""

from analysis.tables.sheet import BEST, SECOND, Sheet, SheetCell, SheetLine

PACKAGES = ("booktabs", "graphicx")
BREAK = r" \\ "
# What LaTeX takes for something else, and what our texts have beyond the letters that it knows.
ESCAPES = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "'": "'",
    "`": r"\textasciigrave{}",
    "\u2212": r"\ensuremath{-}",
    "\u00b1": r"\ensuremath{\pm}",
    "\u2020": r"\dag{}",
    "\u202f": r"\,",
    "\u00a0": "~",
    "\u2013": "--",
}
DOCUMENT = r"""\documentclass{{article}}
\usepackage[T1]{{fontenc}}
\usepackage[margin=1cm,landscape]{{geometry}}
\usepackage{{{packages}}}
\begin{{document}}
{body}
\end{{document}}
"""


def to_latex(sheet: Sheet) -> str:
    """The table as an environment to be read in by `\\input`; what it needs is said in its first line."""
    columns = len(sheet.headings)
    lines = [
        f"% \\usepackage{{{','.join(PACKAGES)}}}, and \\usepackage[T1]{{fontenc}} with an 8-bit engine",
        r"\begin{table*}",
        r"\centering",
        f"\\caption{{{escape(sheet.caption)}}}",
        f"\\label{{tab:{sheet.name}}}",
        r"\resizebox{\textwidth}{!}{%",
        f"\\begin{{tabular}}{{l{'r' * (columns - 1)}}}",
        r"\toprule",
    ]
    if sheet.groups:
        lines += _groups(sheet)
    lines += [_row([escape(heading) for heading in sheet.headings]), r"\midrule"]
    for place, block in enumerate(sheet.blocks):
        if place:
            lines.append(r"\midrule")
        if block.title:
            lines.append(f"\\multicolumn{{{columns}}}{{l}}{{\\textbf{{{escape(block.title)}}}}} \\\\")
        for number, line in enumerate(block.lines):
            if number and _is_tall(line):
                lines.append(r"\addlinespace")
            lines.append(_row([_label(line), *map(_cell, line.cells)]))
    lines += [r"\bottomrule", r"\end{tabular}}"]
    if sheet.notes:
        notes = r"\\ ".join(escape(note.replace("`", "")) for note in sheet.notes)
        lines.append(f"\\par\\smallskip\\parbox{{\\textwidth}}{{\\footnotesize\\raggedright {notes}}}")
    lines.append(r"\end{table*}")
    return "\n".join(lines) + "\n"


def document(body: str) -> str:
    """A document of its own around tables, to look at them."""
    return DOCUMENT.format(packages=",".join(PACKAGES), body=body)


def escape(text: str) -> str:
    r"""`text` such that LaTeX sets it as it is; white space is a space, a character beyond Latin ones "?".

    >>> print(escape("50% of a_b & c"))
    50\% of a\_b \& c
    """
    return "".join(ESCAPES.get(character) or _plain(character) for character in text)


def _plain(character: str) -> str:
    if character.isspace():
        return " "
    return character if character.isprintable() and ord(character) < 0x180 else "?"


def _groups(sheet: Sheet) -> list[str]:
    entries, rules, first = [""], [], 2
    for title, columns in sheet.groups:
        entries.append(f"\\multicolumn{{{columns}}}{{c}}{{{escape(title)}}}")
        if title:
            rules.append(f"\\cmidrule(lr){{{first}-{first + columns - 1}}}")
        first += columns
    return [_row(entries), " ".join(rules)]


def _label(line: SheetLine) -> str:
    label = escape(line.label)
    return _stacked("l", f"\\textit{{{label}}}" if line.is_derived else label, line.details)


def _cell(cell: SheetCell) -> str:
    main = escape(cell.main)
    if cell.is_gap:
        main = f"\\textit{{{main}}}"
    elif cell.rank == BEST:
        main = f"\\textbf{{{main}}}"
    elif cell.rank == SECOND:
        main = f"\\underline{{{main}}}"
    return _stacked("r", main, cell.details)


def _is_tall(line: SheetLine) -> bool:
    return bool(line.details) or any(cell.details for cell in line.cells)


def _stacked(side: str, main: str, details: tuple[str, ...]) -> str:
    """`details` in small letters below `main`, whose line is that of the row."""
    if not details:
        return main
    small = [f"{{\\scriptsize {escape(detail)}}}" for detail in details]
    return f"\\begin{{tabular}}[t]{{@{{}}{side}@{{}}}}{BREAK.join([main, *small])}\\end{{tabular}}"


def _row(entries: list[str]) -> str:
    return f"{' & '.join(entries)} \\\\"
