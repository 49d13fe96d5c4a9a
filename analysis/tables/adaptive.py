"""The attacker who knows the defence: what is left after each of the steps."""

from collections.abc import Sequence

from analysis import names
from analysis.protocol import survivors_of
from analysis.tables.robustness import WORST_CASE, RobustnessTable, Row
from analysis.tables.writing import Cell, accuracy_cells

TITLE = "The attacker who knows the defence, step by step"


def columns(table: RobustnessTable) -> tuple[str, ...]:
    """The adaptive attacks and the worst case; empty if there are no such attacks."""
    if not table.adaptive_columns:
        return ()
    return (*table.adaptive_columns, *([WORST_CASE] if WORST_CASE in table.columns else []))


def headings(table: RobustnessTable) -> list[str]:
    """The headings of all columns, the one of the row labels first."""
    return ["Network", *(names.column_name(column) for column in columns(table))]


def cells(table: RobustnessTable, row: Row) -> list[Cell]:
    """The cells of `row` below `headings(table)[1:]`."""
    return accuracy_cells(table, row, columns(table))


def caption(table: RobustnessTable) -> str:
    """What the columns are and why they fall, in plain text."""
    words = ["Accuracy in percent, with its 95% Wilson interval.", *_gradients(table), *_survivors(table)]
    if WORST_CASE in columns(table):
        words.append("Worst case is that of the main table: it counts the attacks there as well.")
    return " ".join(words)


def _gradients(table: RobustnessTable) -> list[str]:
    """What the attacks with gradients see of the low-precision path."""
    said = {
        "straight_through": "take the rounding for the identity (straight-through)",
        "blocked": "differentiate the deployed arithmetic (blocked low-precision path)",
    }
    sentences = []
    for gradient, what in said.items():
        attacks = {
            names.column_name(names.at_its_radius(column)): None  # in the order of the columns
            for column in table.adaptive_columns
            if table.settings.get(column, {}).get("gradient") == gradient
        }
        if attacks:
            sentences.append(f"Attacks that {what}: {names.listed(attacks)}.")
    return sentences


def _survivors(table: RobustnessTable) -> list[str]:
    """Which attacks are run only on what others have left standing."""
    after: dict[tuple[str, ...], list[str]] = {}
    for column in table.adaptive_columns:
        if before := survivors_of(table.settings.get(column, {})):
            after.setdefault(before, []).append(names.column_name(column))
    if not after:
        return []
    runs = [
        f"{names.listed(attacks)} {_verb(attacks, 'is', 'are')} run only on the images that "
        f"{names.listed(map(names.column_name, before))} {_verb(before, 'has', 'have')} left standing"
        for before, attacks in after.items()
    ]
    random = " (random networks: on all images)" if any(row.is_random for row in table.rows) else ""
    return [f"{'; '.join(runs)}{random}: these columns fall from left to right."]


def _verb(subject: Sequence[str], one: str, several: str) -> str:
    return one if len(subject) == 1 else several
