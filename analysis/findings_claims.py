"""All claims, in the order in which the page of findings has them."""

from collections.abc import Sequence

import polars as pl

from analysis import findings_accuracy, findings_hardware
from analysis.findings import Claim, Finding, Tracked, judge
from analysis.pairing import Comparer
from analysis.records import Reader, no_records

CLAIMS: tuple[Claim, ...] = (*findings_accuracy.CLAIMS, *findings_hardware.CLAIMS)


def find(
    runs: pl.DataFrame, claims: Sequence[Claim] = CLAIMS, *, records: Reader = no_records
) -> list[Finding]:
    """What the runs of one experiment (rows of `analysis.load_runs`, every stage) say of every claim.

    `records` reads what a run knows of single images; without it networks with one training each are
    compared as if each had seen images of its own.
    """
    tracked = Tracked(runs, Comparer(records))
    return [judge(claim, tracked) for claim in claims]
