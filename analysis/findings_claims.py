"""All claims, in the order in which the page of findings has them."""

from collections.abc import Sequence

import polars as pl

from analysis import findings_accuracy, findings_hardware
from analysis.findings import Claim, Finding, judge

CLAIMS: tuple[Claim, ...] = (*findings_accuracy.CLAIMS, *findings_hardware.CLAIMS)


def find(runs: pl.DataFrame, claims: Sequence[Claim] = CLAIMS) -> list[Finding]:
    """What the runs of one experiment (rows of `analysis.load_runs`, every stage) say of every claim."""
    return [judge(claim, runs) for claim in claims]
