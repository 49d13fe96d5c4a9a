"""Which claims hold on these runs: a claim is data with a small function that gathers the evidence.

Every piece of evidence is one comparison of two measured numbers with its interval and its denominator. A
claim holds where at least half of them are clearly for it and none clearly against it: one that happens to be
clear among many that are not says little.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import polars as pl

from analysis import names
from analysis.comparison import Difference
from analysis.networks import Network, networks
from analysis.pairing import BY_SEED, INDEPENDENT, MOST_READ, PAIRED, Comparer, Comparison
from analysis.runs import Parent

Verdict = Literal["holds", "does not hold", "cannot be told from these runs"]
HOLDS: Verdict = "holds"
FAILS: Verdict = "does not hold"
UNKNOWN: Verdict = "cannot be told from these runs"
MOST = 24
"""More lines of evidence than these are counted, not shown."""
MOST_RUNS = 6
"""More runs than these behind one line are counted, not named."""
INTERVALS = (
    f"Intervals are 95%, each for itself. {PAIRED.capitalize()}: two networks, one training each, on the "
    "same images under the same attack, with Newcombe's interval for paired shares, and beside it McNemar's "
    "exact p, uncorrected (none where a network is random, whose mean over noise draws is compared). "
    f"{BY_SEED.capitalize()}: Student's interval of the differences within each seed. "
    f"{INDEPENDENT.capitalize()}: Newcombe's interval for separate samples, where images, attack or seeds "
    "are not the same, where runs have no table of single images, and beyond the first "
    f"{MOST_READ} runs, since each has to be fetched. What is clear is decided by the interval."
)
SIGNS = {1: "for it", 0: "not clear", -1: "against it"}


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """One comparison: `sign` is 1 where it is clearly for the claim, -1 against it, 0 where it is not clear.

    `basis` says what the numbers rest on, `run_ids` which runs they come from.
    """

    subject: str
    numbers: str
    sign: int
    basis: str
    run_ids: tuple[str, ...]


@dataclass(frozen=True)
class Tracked:
    """What claims are judged by: `runs` (rows of `analysis.load_runs`, every stage) and how to compare."""

    runs: pl.DataFrame
    comparer: Comparer

    @cached_property
    def networks(self) -> list[Network]:
        """The networks that were attacked."""
        return networks(self.runs)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What somebody says, in our words, and where; `gather` finds what the runs have to say of it.

    `needs` is what runs must have for that, `grids` which sweeps compute it (full scale, a CPU's scale).
    """

    title: str
    text: str
    source: str
    rule: str
    needs: str
    grids: tuple[str, str]
    gather: Callable[[Tracked], Sequence[Evidence]]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The verdict on one claim, with what it rests on."""

    claim: Claim
    verdict: Verdict
    why: str
    evidence: tuple[Evidence, ...]


def judge(claim: Claim, tracked: Tracked) -> Finding:
    """What the runs say of a claim."""
    evidence = tuple(claim.gather(tracked))
    signs = [one.sign for one in evidence]
    if not evidence:
        full, small = claim.grids
        return Finding(
            claim=claim,
            verdict=UNKNOWN,
            why=f"There is no {claim.needs}. `python -m pipeline.sweep --grid {small}` computes it at the "
            f"scale of a CPU ({full} at the paper's), and `python -m analysis --grid {small}` reads it.",
            evidence=(),
        )
    count = f"{len(signs)} comparison{'s' * (len(signs) > 1)}"
    tally = [f"{signs.count(sign)} {words}" for sign, words in SIGNS.items() if sign in signs]
    why = f"Of {count}: {names.listed(tally)}."
    if -1 in signs:
        return Finding(claim=claim, verdict=FAILS, why=why, evidence=evidence)
    if 2 * signs.count(1) >= len(signs):
        return Finding(claim=claim, verdict=HOLDS, why=why, evidence=evidence)
    why += " More test images or more seeds may tell."
    return Finding(claim=claim, verdict=UNKNOWN, why=why, evidence=evidence)


def compare(subject: str, found: Comparison, *, sign: Callable[[Difference], int]) -> Evidence:
    """The evidence of two accuracies: `sign` says what their difference means for the claim."""
    change = found.difference
    interval = f"{names.points(change.low)} to {names.points(change.high)}"
    test = "" if found.p_value is None else f"; McNemar {names.p_text(found.p_value)}"
    return Evidence(
        subject=subject,
        numbers=f"{names.percent(found.now)}% against {names.percent(found.before)}%: "
        f"{names.points(change.value)} points (95% interval {interval}{test})",
        sign=sign(change),
        basis=found.basis,
        run_ids=found.run_ids,
    )


def rises(change: Difference) -> int:
    """A clear rise is for the claim, a clear fall against it."""
    return change.sign


def falls(change: Difference) -> int:
    """A clear fall is for the claim, a clear rise against it."""
    return -change.sign


def kept_within(margin: float) -> Callable[[Difference], int]:
    """Nothing is lost: for the claim if the whole interval is above `-margin`, against it on a clear fall."""

    def sign(change: Difference) -> int:
        if change.low > -margin:
            return 1
        return -1 if change.high < 0 else 0

    return sign


def to_markdown(
    findings: Sequence[Finding],
    *,
    parent: Parent,
    doubts: Sequence[str],
    command: str,
    link: Callable[[str], str] | None = None,
) -> str:
    """The findings as a Markdown page; `link` gives the address of a run, where there is a page of it."""
    lines = [
        "# Findings: what holds on these runs",
        "",
        f"MLflow experiment `{parent.experiment}`, parent run {_run(parent.run_id, link)}. Written by "
        f"`{command}`; every number is from tracked runs. {INTERVALS} A claim holds where at least "
        "half of the comparisons are clearly for it and none clearly against it; one clearly against it is "
        "enough for it not to hold.",
        "",
        "| Claim | Verdict | Evidence |",
        "|---|---|---|",
    ]
    lines += [f"| {one.claim.title} | **{one.verdict}** | {_cell(one.why)} |" for one in findings]
    if doubts:
        lines += ["", "Before comparing: " + " ".join(doubts)]
    for one in findings:
        lines += ["", f"## {one.claim.title}", ""]
        lines += [f"Claim ({one.claim.source}): {one.claim.text}", ""]
        lines += [f"Rule: {one.claim.rule}", "", f"**{one.verdict[0].upper()}{one.verdict[1:]}.** {one.why}"]
        if one.evidence:
            lines += ["", "| Compared | Numbers | Says | Rests on | Runs |", "|---|---|---|---|---|"]
            lines += [
                f"| {_cell(e.subject)} | {_cell(e.numbers)} | {SIGNS[e.sign]} | {e.basis} | "
                f"{_runs(e.run_ids, link)} |"
                for e in one.evidence[:MOST]
            ]
        if len(one.evidence) > MOST:
            lines += ["", f"{len(one.evidence) - MOST} more comparisons are counted and not shown."]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _runs(run_ids: Sequence[str], link: Callable[[str], str] | None) -> str:
    named = [_run(run_id, link) for run_id in run_ids[:MOST_RUNS]]
    if len(run_ids) > MOST_RUNS:
        named.append(f"{len(run_ids) - MOST_RUNS} more")
    return ", ".join(named)


def _run(run_id: str, link: Callable[[str], str] | None) -> str:
    return f"`{run_id}`" if link is None else f"[`{run_id[:10]}`]({link(run_id)})"
