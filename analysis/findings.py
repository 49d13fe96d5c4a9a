"""Which claims hold on these runs: a claim is data with a small function that gathers the evidence.

Every piece of evidence is one comparison of two measured numbers with its interval and its denominator. A
claim holds where some evidence is clearly for it and none clearly against it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import polars as pl

from analysis import names
from analysis.comparison import Difference, difference
from analysis.networks import Measured
from analysis.runs import Parent

Verdict = Literal["holds", "does not hold", "cannot be told from these runs"]
HOLDS: Verdict = "holds"
FAILS: Verdict = "does not hold"
UNKNOWN: Verdict = "cannot be told from these runs"
MOST = 24
"""More lines of evidence than these are counted, not shown."""
MOST_RUNS = 6
"""More runs than these behind one line are counted, not named."""
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
    gather: Callable[[pl.DataFrame], Sequence[Evidence]]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The verdict on one claim, with what it rests on."""

    claim: Claim
    verdict: Verdict
    why: str
    evidence: tuple[Evidence, ...]


def judge(claim: Claim, runs: pl.DataFrame) -> Finding:
    """What `runs` (rows of `analysis.load_runs`, every stage) say of a claim."""
    evidence = tuple(claim.gather(runs))
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
    if 1 in signs:
        return Finding(claim=claim, verdict=HOLDS, why=why, evidence=evidence)
    why += " More test images or more seeds would make the intervals narrower."
    return Finding(claim=claim, verdict=UNKNOWN, why=why, evidence=evidence)


def compare(
    subject: str, now: Measured, before: Measured, *, sign: Callable[[Difference], int], extra: str = ""
) -> Evidence:
    """The evidence of two accuracies: `sign` says what their difference means for the claim."""
    change = difference(now, before)
    interval = f"{names.points(change.low)} to {names.points(change.high)}"
    return Evidence(
        subject=subject,
        numbers=f"{names.percent(now.value)}% against {names.percent(before.value)}%: "
        f"{names.points(change.value)} points (95% interval {interval}){extra}",
        sign=sign(change),
        basis=basis(now, before),
        run_ids=tuple(dict.fromkeys((*now.run_ids, *before.run_ids))),
    )


def basis(*numbers: Measured) -> str:
    """The denominators: "400 images, 1 seed"."""
    images = " and ".join(str(count) for count in sorted({one.images for one in numbers if one.images}))
    seeds = sorted({one.seeds for one in numbers})
    plural = "" if seeds == [1] else "s"
    seen = f"{' and '.join(map(str, seeds))} seed{plural}"
    return f"{images} images, {seen}" if images else seen


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
        f"`{command}`; every number is from tracked runs. Intervals are 95%: Wilson's for one seed, "
        "Student's over several; of differences Newcombe's for independent samples, each for itself. A claim "
        "holds where evidence is clearly for it and none clearly against it.",
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
