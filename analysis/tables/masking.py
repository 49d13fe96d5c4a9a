"""Are gradients masked? The verdict of every network, with the numbers that it rests on."""

from dataclasses import dataclass

from analysis import names
from analysis.masking import GAP, TESTS, TOLERANCE
from analysis.protocol import UNBOUNDED, in_pixels
from analysis.tables.robustness import RobustnessTable, Row

TITLE = "Are gradients masked?"
INTRODUCTION = (
    "A network that hides its gradient looks robust to attacks that follow it, and is not. Six tests look "
    "for signs of that: an attacker who knows the defence finds much more than the paper's attacks do (the "
    "protocols disagree); an attack without the network's own gradient beats those with it; one step beats "
    "twenty; something withstands an attack whose radius should leave nothing standing; twenty steps are no "
    "stronger than two; input gradients are exactly zero. A raised test is a reason for doubt and not a "
    "proof, and no raised test is no proof either (Athalye et al. 2018, arXiv:1802.00420; Carlini et al. "
    "2019, arXiv:1902.06705)."
)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One test of one network: `numbers` in words, such as "paper 90.6"; none where there is no verdict."""

    raised: bool
    numbers: tuple[str, ...]


def tests(table: RobustnessTable) -> list[str]:
    """The names of the tests that any network has, in their order."""
    found = {test.name for row in table.rows if row.masking for test in row.masking.tests}
    return [*(name for name in TESTS if name in found), *sorted(found - set(TESTS))]


def headings(table: RobustnessTable) -> list[str]:
    """The headings of all columns, the one of the row labels first."""
    return ["Network", *(name.replace("_", " ").capitalize() for name in tests(table))]


def cells(table: RobustnessTable, row: Row) -> list[Finding]:
    """The cells of `row` below `headings(table)[1:]`."""
    found = {test.name: test for test in row.masking.tests} if row.masking else {}
    return [
        Finding(
            raised=name in found and found[name].raised,
            numbers=tuple(
                f"{number.replace('_', ' ')} {names.percent(value)}"
                for number, value in (found[name].numbers.items() if name in found else ())
            ),
        )
        for name in tests(table)
    ]


def caption(table: RobustnessTable) -> str:
    """What the numbers are, in plain text."""
    eps = table.settings.get(UNBOUNDED, {}).get("eps")
    radius = f" The unbounded attack has the radius {in_pixels(eps)}." if eps else ""
    points, percent = f"{100 * GAP:g} points", f"{100 * TOLERANCE:g}%"
    return (
        "Percent of the test images that are still right; share: of the input gradients, those that are "
        f"exactly zero. A test is raised by more than {points} between the protocols, more than "
        f"{100 * TOLERANCE:g} point by which an attack beats another, more than {percent} left by the "
        f"unbounded attack, more than {percent} of zero gradients, and twenty steps that find no more than "
        f"two.{radius}"
    )
