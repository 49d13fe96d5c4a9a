"""How columns, variants and numbers are written in tables, figures and sentences."""

import re
from collections.abc import Iterable, Mapping
from math import copysign
from typing import Any

MINUS = "\u2212"
FAMILIES = {"fgsm": "FGSM", "pgd": "PGD", "mifgsm": "MIFGSM"}
# The other attacks of the paper, then those of an attacker who knows the defence.
PAPER = {
    "cw": "CW-l2",
    "cw_l2": "CW-l2",
    "deepfool": "DeepFool",
    "autoattack_torchattacks": "AutoAttack (torchattacks)",
}
ADAPTIVE = {
    "transfer": "Transfer",
    "apgd_ce": "APGD-CE",
    "apgd_dlr_targeted": "APGD-DLR targeted",
    "fab_targeted": "FAB targeted",
    "square": "Square",
    "autoattack_standard": "AutoAttack (standard)",
}
# What only the verdict on masked gradients asks.
PROBES = {"pgd2_probe": "PGD-2 (probe)", "pgd20_unbounded_probe": "PGD-20, unbounded (probe)"}
# Columns that are no attack: undisturbed images, and images that are right under the attacks together.
WHOLE = {"clean": "Clean", "worst_case": "Worst case"}
MASKING = {"masking": "Masked gradients"}
TITLES = PAPER | ADAPTIVE | PROBES | WHOLE | MASKING
GROUPS = {"paper": PAPER, "adaptive": ADAPTIVE, "probes": PROBES, "whole": WHOLE}
ORDER = ("blocked", "paper", "straight-through", "grid", "adaptive", "unknown", "probes", "whole")
KNOWN_ATTACK = re.compile(
    # straight-through stands before the radius or after it
    r"(?P<family>fgsm|pgd|mifgsm)(?=.*(?P<straight>_straight_through)|)(?P<steps>\d*)"
    r"(?:_straight_through)?(?:_eps(?P<radius>\d+))?(?:_straight_through)?"
)
# An adaptive attack over its radius.
ADAPTIVE_AT_RADIUS = re.compile(rf"(?P<attack>{'|'.join(ADAPTIVE)})_eps(?P<radius>\d+)")
# What the pipeline does unless told otherwise; a variant's label names only what departs from it.
USUAL: dict[str, Any] = {
    "target": "non_essential",
    "randomize": "fixed",
    "selection": "top_k",
    "score": "magnitude",
    "bits": 4,
    "projection_ratio": 0.25,
}
# What the dense teacher is trained by unless a label says otherwise.
PLAIN = (None, "adversarial")
# Runs have recorded these only since they are tags; in older ones they are null.
LATER = ("score", "bits", "projection_ratio", "layer_ratios", "trained_by", "ensemble", "pretrain_epochs")


def attack_order(names: Iterable[str]) -> list[str]:
    """The attacks in the protocol's order: FGSM, PGD, MIFGSM with blocked gradients, the paper's others.

    Then the same with straight-through gradients, grids by radius and steps, and what an attacker runs who
    knows the defence. Unknown names follow, then probes, then the worst case of all.
    """

    def place(name: str) -> tuple[int, tuple[int, ...], str]:
        if known := KNOWN_ATTACK.fullmatch(name):
            straight = known["straight"] is not None
            group = "grid" if known["radius"] else "straight-through" if straight else "blocked"
            family = list(FAMILIES).index(known["family"])
            return (
                ORDER.index(group),
                (straight, family, int(known["radius"] or 0), int(known["steps"] or 0)),
                name,
            )
        if known := ADAPTIVE_AT_RADIUS.fullmatch(name):
            of_radius = (list(ADAPTIVE).index(known["attack"]), int(known["radius"]))
            return ORDER.index("adaptive"), (len(ADAPTIVE), *of_radius), name  # after those of the protocol
        for group, members in GROUPS.items():
            if name in members:
                return ORDER.index(group), (list(members).index(name),), name
        return ORDER.index("unknown"), (), name

    return sorted(set(names), key=place)


def column_name(column: str) -> str:
    """The heading of a column: "PGD-20, straight-through" for `pgd20_straight_through`.

    >>> column_name("pgd50_eps12"), column_name("apgd_ce_eps4"), column_name("square_5000")
    ('PGD-50, 12/255', 'APGD-CE, 4/255', 'square 5000')
    """
    if known := ADAPTIVE_AT_RADIUS.fullmatch(column):
        return f"{ADAPTIVE[known['attack']]}, {known['radius']}/255"
    known = KNOWN_ATTACK.fullmatch(column)
    if known is None:
        return TITLES.get(column, column.replace("_", " "))
    steps = f"-{known['steps']}" if known["steps"] else ""
    radius = f", {known['radius']}/255" if known["radius"] else ""
    return FAMILIES[known["family"]] + steps + radius + (", straight-through" if known["straight"] else "")


def at_its_radius(column: str) -> str:
    """The adaptive attack that `column` is at another radius: "apgd_ce" for "apgd_ce_eps4"; else itself."""
    known = ADAPTIVE_AT_RADIUS.fullmatch(column)
    return known["attack"] if known else column


def listed(words: Iterable[str]) -> str:
    """Words as a list in a sentence: "a", "a and b", "a, b and c"; "" for none."""
    *most, last = list(words) or [""]
    return f"{', '.join(most)} and {last}" if most else last


def variant_order(row: dict[str, Any]) -> tuple[Any, ...]:
    """The place of a run: per model, data set, defence the dense network, ratios, patterns, layer ratios."""
    noise_in, of_every = (int(part) for part in row["pattern"].split(":")) if row["pattern"] else (0, 1)
    objective = {"clean": 0, "adversarial": 1}.get(row["objective"] or "clean", 2)
    return (
        row["model"] or "",
        row["dataset"] or "",
        row["trained_by"] not in PLAIN,
        row["trained_by"] or "",
        row["defence"] != "dense",
        row["layer_ratios"] is not None,
        row["layer_ratios"] or "",
        row["pattern"] is not None,
        row["ratio"] or 0.0,
        noise_in / of_every,
        of_every,
        objective,
        *(_departure(row, name) or "" for name in USUAL),
        row["ensemble"] or 1,
        row["pretrain_epochs"] or 0,
        row["seed"] or 0,
    )


def variant_name(row: dict[str, Any], *, telling: Iterable[str] = ()) -> str:
    """The label of a run: "Ratio 0.9, adversarial", "TRADES (Zhang et al., 2019), beta 1".

    It says which defence the dense network was trained by unless that is plain adversarial training, or the
    only one that there is. Columns named in `telling` are written out as well.

    A column that is null is left out, unless it is of the kind that old runs have not recorded.
    """
    if row["defence"] == "dense":
        parts = ["Dense teacher" if row["trained_by"] in PLAIN else _trained_by(row)]
    else:
        parts = [rule_name(row)]
        if row["objective"]:
            parts.append(row["objective"])
        parts += departures(row)
        if row["trained_by"] not in PLAIN:
            parts.append(f"on {_trained_by(row)}")
    if (row["ensemble"] or 1) > 1:
        parts.append(f"ensemble of {row['ensemble']}")
    for name in telling:
        if row[name] is not None:
            parts.append(f"{name} {row[name]}".replace("_", " "))
        elif name in LATER:
            parts.append(f"{name} not recorded".replace("_", " "))
    return ", ".join(parts)


def rule_name(row: Mapping[str, Any]) -> str:
    """Where the noise of a network goes: "Ratio 0.9", "Pattern 7:8", "Layer ratios cheap"."""
    if row["layer_ratios"]:
        return f"Layer ratios {row['layer_ratios']}"
    return f"Pattern {row['pattern']}" if row["pattern"] else f"Ratio {row['ratio']:g}"


def _trained_by(row: Mapping[str, Any]) -> str:
    """The defence of the dense network with its unusual settings, as its run says; else its label."""
    return row["trained_by_title"] or row["trained_by"] or ""


def departures(row: Mapping[str, Any]) -> list[str]:
    """What is not `USUAL` about a network with noise, in words: ["bits 3", "score signed"]."""
    return [text for name in USUAL if (text := _departure(row, name))]


def _departure(row: Mapping[str, Any], name: str) -> str | None:
    if row["defence"] == "dense" or row[name] in (None, USUAL[name]):
        return None
    return f"{name} {row[name]}".replace("_", " ")


def percent(fraction: float, digits: int = 1) -> str:
    """A fraction as a percentage without its sign; halves go away from zero, as readers round.

    Formatting a float would round some halves up and some down: 109 of 400 to 27.3, 153 of 400 to 38.2.

    >>> percent(0.525), percent(109 / 400), percent(153 / 400)
    ('52.5', '27.3', '38.3')
    """
    value = 100 * fraction
    # more than binary fractions are off by, less than any digit that is shown
    return f"{value + copysign(1e-9, value):.{digits}f}"


def reduction(fraction: float | None) -> str:
    """A saved share as the paper writes it: "-82.6%", with a plus for extra cost; "" for None."""
    if fraction is None:
        return ""
    text = percent(abs(fraction))
    return f"{text}%" if float(text) == 0 else f"{MINUS if fraction > 0 else '+'}{text}%"


def points(fraction: float, *, signed: bool = True, digits: int = 1) -> str:
    """A difference of two fractions in percentage points: "+12.3" or, unsigned, "12.3"."""
    text = percent(abs(fraction), digits)
    if not signed or float(text) == 0:
        return text
    return f"{'+' if fraction > 0 else MINUS}{text}"


def p_text(value: float) -> str:
    """A p-value as papers write it.

    >>> p_text(0.0004), p_text(0.0371), p_text(1.0)
    ('p < 0.001', 'p = 0.037', 'p = 1.000')
    """
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def duration(seconds: float | None) -> str:
    """Seconds for readers: "8.2 s", "12 min", "3.4 h"; "" for None."""
    if seconds is None:
        return ""
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def magnitude(value: float | None) -> str:
    """A large count with three digits and its unit prefix: 1.42e9 as "1.42 G"; "" for None."""
    if value is None:
        return ""
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size * 0.9995:
            # rounded to three digits first, so that 9.996 becomes 10.0 and not 10.00
            scaled = float(f"{value / size:.3g}")
            return f"{scaled:.{3 - len(str(int(scaled)))}f} {prefix}"
    return f"{value:g}"
