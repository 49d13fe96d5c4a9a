"""All claims, in the order in which the page of findings has them."""

from collections.abc import Sequence

import polars as pl

from analysis import findings_accuracy, findings_hardware
from analysis.findings import Claim, Finding, Tracked, judge
from analysis.pairing import Comparer

CLAIMS: tuple[Claim, ...] = (*findings_accuracy.CLAIMS, *findings_hardware.CLAIMS)


def find(
    runs: pl.DataFrame, claims: Sequence[Claim] = CLAIMS, *, comparer: Comparer | None = None
) -> list[Finding]:
    """What the runs of one experiment (rows of `analysis.load_runs`, every stage) say of every claim.

    `comparer` reads what runs know of single images; without it networks with one training each are compared
    as if each had seen images of its own.
    """
    tracked = Tracked(runs, comparer or Comparer())
    return [judge(claim, tracked) for claim in claims]
