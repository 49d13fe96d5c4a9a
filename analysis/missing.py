"""The numbers that a table lacks, and the commands that compute them."""

from analysis import names
from analysis.remedy import Gap, Remedy
from analysis.tables.robustness import RobustnessTable, Row

MOST_COMMANDS = 20
"""Beyond so many networks the command for all of them has to do."""


def gaps(table: RobustnessTable) -> list[tuple[Row, tuple[str, ...]]]:
    """The networks that lack numbers or verdicts that belong there, with the columns."""
    found: dict[str, tuple[Row, list[str]]] = {}
    for row, column in table.missing:
        found.setdefault(row.label, (row, []))[1].append(column)
    return [(row, tuple(columns)) for row, columns in found.values()]


def advice(table: RobustnessTable, remedy: Remedy) -> str:
    """What to run for everything that is missing, in words; "" where nothing is."""
    lacking = gaps(table)
    return remedy.advice([_gap(*one) for one in lacking]) if lacking else ""


def listed(table: RobustnessTable, remedy: Remedy) -> list[str]:
    """A line for each network: what it lacks, and what computes that where it is less than `advice` says."""
    lacking = gaps(table)
    together = remedy.computing([_gap(*one) for one in lacking]) if lacking else None
    lines = []
    for place, (row, columns) in enumerate(lacking):
        line = f"{row.label}: {names.listed(map(names.column_name, columns))}"
        command = remedy.computing([_gap(row, columns)]) if place < MOST_COMMANDS else together
        if command is None and together is not None:
            line += " (no experiment of this set computes it)"
        elif command != together:
            line += f": `{command}`"
        lines.append(line)
    return lines


def _gap(row: Row, columns: tuple[str, ...]) -> Gap:
    return row.is_of, columns
