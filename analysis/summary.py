"""The table in sentences. Every word follows from the numbers and their intervals."""

import re
from dataclasses import dataclass

from analysis import names, sparsity
from analysis.against_dense import AgainstDense
from analysis.comparison import Difference, difference
from analysis.tables.robustness import WORST_CASE, RobustnessTable, Row

STRAIGHT_ATTACKER = "an attacker who differentiates the low-precision path"
ADAPTIVE_ATTACKER = "an attacker who knows the defence"
# The paper's main setting, ratio 0.9, leaves 17.4% of the dense BitOPs (0.452 of 2.60, its table 1).
MAIN_COST = 0.174
STRAIGHT = "_straight_through"
MOST_TOLD = 24
"""A paragraph for each of more networks than these is read by nobody: they are in the tables."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What the table says: over all networks in one paragraph, then (label, sentences) of each noisy one.

    `chosen` are the networks nearest to the paper's main setting, `others` the rest; of each the first
    `MOST_TOLD`. `left_out` is how many there are beyond those.
    """

    headline: str
    chosen: tuple[tuple[str, str], ...]
    others: tuple[tuple[str, str], ...]
    left_out: int


def summarise(table: RobustnessTable, against: AgainstDense | None = None) -> Summary:
    """What the table says about cost, accuracy and robustness against the dense teacher.

    `against` is how its networks differ from that; by default as if each had seen images of its own.
    """
    against = against or AgainstDense(table)
    noisy = _noisy(table)
    distances = [abs((row.cost or 0) - MAIN_COST) for row in noisy]
    least = min(distances, default=0.0)
    parts: tuple[list[Row], list[Row]] = ([], [])
    for row, distance in zip(noisy, distances, strict=True):
        parts[distance - least >= 1e-6].append(row)
    chosen, others = (
        tuple((row.label, _network(table, row, against)) for row in part[:MOST_TOLD]) for part in parts
    )
    left_out = len(noisy) - len(chosen) - len(others)
    return Summary(headline=headline(table, against), chosen=chosen, others=others, left_out=left_out)


def headline(table: RobustnessTable, against: AgainstDense | None = None) -> str:
    """What the table says over all networks, in one paragraph; `against` as in `summarise`."""
    return _headline(table, _noisy(table), against or AgainstDense(table))


def _noisy(table: RobustnessTable) -> list[Row]:
    return [row for row in table.rows if not row.is_dense and row.images]


def attack_pair(table: RobustnessTable) -> tuple[str | None, str | None]:
    """The columns of who does not know the defence and of who does; None for none.

    The longest PGD with blocked gradients; and the worst case where that includes adaptive attacks, else the
    longest PGD with straight-through gradients.
    """
    blocked, straight = _longest_pgd(table)
    adaptive = any(table.counts(column) for column in table.adaptive_columns)
    return blocked, (WORST_CASE if adaptive and WORST_CASE in table.columns else straight)


def _longest_pgd(table: RobustnessTable) -> tuple[str | None, str | None]:
    """The columns of the longest PGD with blocked and with straight-through gradients; None for none."""
    steps = {
        column: int(known[1] or 0)
        for column in table.columns
        if (known := re.fullmatch(rf"pgd(\d*)(?:{STRAIGHT})?", column))
    }
    straight = [column for column in steps if column.endswith(STRAIGHT)]
    if straight:
        best = max(straight, key=steps.__getitem__)
        base = best.removesuffix(STRAIGHT)
        return (base if base in steps else None), best
    return max(steps, key=steps.__getitem__, default=None), None


def _headline(table: RobustnessTable, noisy: list[Row], against: AgainstDense) -> str:
    sparse = " ".join(sparsity.headline(table, study) for study in sparsity.studies(table))
    if not noisy:
        return sparse or "No network with noise has a result yet."
    sentences = []
    costs = sorted(row.cost for row in noisy if row.cost is not None)
    if costs:
        low, high = names.percent(costs[0]), names.percent(costs[-1])
        span = f"{low}%" if low == high else f"{low}% to {high}%"
        one = "network with noise costs" if len(noisy) == 1 else f"{len(noisy)} networks with noise cost"
        sentences.append(f"The {one} {span} of the dense BitOPs.")
    blocked, knowing = attack_pair(table)
    for column in (blocked, knowing):
        changes = [change for row in noisy if column and (change := against(row, column))]
        if column and changes:
            also = ", which includes the adaptive attacks," if column == WORST_CASE else ""
            where = f"{_under(column)[0].upper()}{_under(column)[1:]}{also}"
            sentences.append(f"{where} {_tally([change.sign for change in changes])}.")
    if blocked and knowing:
        gains = [row for row in noisy if against.sign(row, blocked) == 1]
        signs = [sign for row in gains if (sign := against.sign(row, knowing)) is not None]
        if signs:
            sentences.append(_verdict_over_all(signs, _attacker(knowing)))
    sentences += _best_defence(table, noisy, knowing or blocked)
    return " ".join([*sentences, *([sparse] if sparse else [])])


def _best_defence(table: RobustnessTable, noisy: list[Row], column: str | None) -> list[str]:
    """Which of several defences is the most robust one under `column`, and the best network with noise.

    An ensemble is no network of its own: single passes count. No sentence where there is one defence only,
    or networks of several models or data sets.
    """
    noisy = [row for row in noisy if row.passes == 1]
    dense = [
        row for row in table.rows if row.is_dense and row.passes == 1 and column and row.cells.get(column)
    ]
    if len(dense) < 2 or len({(row.identity["model"], row.identity["dataset"]) for row in table.rows}) > 1:
        return []
    assert column is not None

    def best(rows: list[Row]) -> str:
        row = max((row for row in rows if row.cells[column]), key=lambda row: row.cells[column].value)  # type: ignore[union-attr]
        share = row.cells[column]
        assert share is not None
        return f"{row.label} with {names.percent(share.value)}%"

    under = _under(column)
    sentence = f"{under[0].upper()}{under[1:]} the best of {len(dense)} networks that approximate nothing is "
    sentence += best(dense)
    if any(row.cells[column] for row in noisy):
        sentence += f", and the best that does {best(noisy)}"
    return [f"{sentence}."]


def _under(column: str) -> str:
    """The attack of `column` as a part of a sentence: "under PGD-20 with blocked gradients"."""
    if column == WORST_CASE:
        return "in the worst case"
    gradients = "straight-through" if column.endswith(STRAIGHT) else "blocked"
    return f"under {names.column_name(column.removesuffix(STRAIGHT))} with {gradients} gradients"


def _attacker(column: str) -> str:
    return ADAPTIVE_ATTACKER if column == WORST_CASE else STRAIGHT_ATTACKER


def _tally(signs: list[int]) -> str:
    """How many networks are clearly above, clearly below and not clearly different from the dense teacher."""
    words = {1: "clearly above", -1: "clearly below", 0: "not clearly different from"}
    if len(signs) == 1:
        return f"it is {words[signs[0]]} the dense teacher"
    parts: list[str] = []
    for sign, word in words.items():
        count = signs.count(sign)
        whom = "it" if parts else "the dense teacher"
        if count == len(signs):
            return f"all {count} are {word} {whom}"
        if count:
            parts.append(f"{count} of {len(signs)} {'is' if count == 1 else 'are'} {word} {whom}")
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def _verdict_over_all(signs: list[int], attacker: str) -> str:
    """How many gains with blocked gradients hold, from the signs against `attacker`."""
    gains, kept = len(signs), signs.count(1)
    clearly = "" if set(signs) <= {1, -1} else "clearly "
    if gains == 1:
        return f"The gain is {'also' if kept else f'not {clearly}'.rstrip()} there for {attacker}."
    if kept == gains:
        return f"All {gains} gains are also there for {attacker}."
    return (
        f"Of the {gains} gains {kept or 'none'} {'are' if kept > 1 else 'is'} {clearly}there for {attacker}."
    )


def _network(table: RobustnessTable, row: Row, against: AgainstDense) -> str:
    sentences = [_cost(row)]
    dense = table.dense_for(row)
    if dense is None or dense.images is None:
        sentences.append("The dense teacher has no result to compare it with.")
        return " ".join(sentence for sentence in sentences if sentence)
    if dense.tracked["data_fingerprint"] != row.tracked["data_fingerprint"]:
        sentences.append("The dense teacher was measured on other data: not compared.")
        return " ".join(sentence for sentence in sentences if sentence)
    blocked, knowing = attack_pair(table)
    clean = against(row, "clean")
    if clean:
        sentences.append(f"Clean accuracy {_moves(clean)} against the dense teacher.")
    for column in (blocked, knowing):
        if column is None:
            continue
        what = f"Accuracy {_under(column)}"
        change = against(row, column)
        sentences.append(f"{what} {_moves(change)}." if change else f"{what} is missing.")
    if blocked and knowing:
        sentences += [
            _verdict(against.sign(row, blocked), against.sign(row, knowing), _attacker(knowing)),
            _hidden(row, blocked, knowing),
        ]
    return " ".join(sentence for sentence in sentences if sentence)


def _cost(row: Row) -> str:
    if row.cost is None:
        return ""
    rule = names.rule_name(row.identity)
    preposition = "At" if row.identity["ratio"] is not None else "With the"
    where = f"{preposition} {rule[0].lower()}{rule[1:]}"
    measured = row.reduction_measured
    beside = f" ({names.percent(1 - measured)}% with the measured masks)" if measured is not None else ""
    return f"{where} the network costs {names.percent(row.cost)}% of the dense BitOPs{beside}."


def _moves(change: Difference) -> str:
    """ "rises by 12.3 points (95% interval +9.0 to +15.5)", or "shows no clear difference (...)"."""
    if change.sign == 0:
        return f"shows no clear difference ({names.points(change.value)} points, {_interval(change)})"
    verb = "rises" if change.sign > 0 else "falls"
    return f"{verb} by {names.points(change.value, signed=False)} points ({_interval(change)})"


def _interval(change: Difference) -> str:
    # An end that is not zero must not look like zero where the words say that there is a difference.
    nearest = min(abs(change.low), abs(change.high))
    digits = next((n for n in (1, 2, 3) if change.sign == 0 or float(names.percent(nearest, n)) > 0), 4)
    low, high = (names.points(end, digits=digits) for end in (change.low, change.high))
    return f"95% interval {low} to {high}"


def _verdict(blocked: int | None, knowing: int | None, attacker: str) -> str:
    """Whether the gain that the signs against dense show with blocked gradients is there for `attacker`."""
    match blocked, knowing:
        case (None, _) | (_, None):
            return ""
        case (1, 1):
            return f"The gain is there for {attacker}, too."
        case (1, 0):
            return f"The gain is not clearly there for {attacker}: no clear difference is left."
        case (1, -1):
            return (
                f"The gain is not there for {attacker}: against that one it is weaker than the dense teacher."
            )
        case (0, 0):
            return "Neither attacker tells it clearly from the dense teacher."
        case (_, 1):
            return f"A gain shows only against {attacker}, the usually stronger one: check the protocol."
        case (0, -1):
            return f"There is no clear gain to begin with, and a loss against {attacker}."
        case (-1, 0):
            return f"There is a loss with blocked gradients and nothing clear against {attacker}."
        case _:
            return "Both attackers find it weaker than the dense teacher."


def _hidden(row: Row, blocked: str, knowing: str) -> str:
    """What is hidden within one network from the attacker who does not know the defence."""
    without, full = row.cells[blocked], row.cells[knowing]
    if not without or not full:
        return ""
    gap = difference(without, full)
    if gap.sign != 1:
        return ""
    size, interval = names.points(gap.value, signed=False), _interval(gap)
    if knowing == WORST_CASE:
        attack = f"{names.column_name(blocked)} with blocked gradients"
        return f"{attack} alone leaves it {size} points above its worst case ({interval})."
    return (
        f"Blocked gradients make it look {size} points more robust than straight-through ones ({interval})."
    )
