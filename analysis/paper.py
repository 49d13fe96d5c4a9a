"""What the paper prints, to be set beside our numbers and never used for them."""

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

REFERENCE = Path(__file__).parent / "reference"
# The networks of the paper. Another one is set beside ResNet-18, for which the paper prints the most.
NETWORKS = {"resnet18": "ResNet-18", "wrn34_10": "WideResNet-34-10"}


@dataclass(frozen=True, kw_only=True)
class PrintedReduction:
    """The paper's BitOPs reduction against its dense network: a fraction (0.826), the network, the table."""

    reduction: float
    network: str
    table: int


def printed_reduction(model: str | None, ratio: float | None, pattern: str | None) -> PrintedReduction | None:
    """The reduction that the paper prints for an injection ratio or "N:M" pattern; None where it prints none.

    Liu et al. 2024 print absolute BitOPs with three digits; the reduction is their quotient with those of
    the dense network, which gives the -82.6% and -91.6% that the paper writes out.
    """
    network = model if model in NETWORKS else "resnet18"
    method = f"Noise Injection {pattern}" if pattern else f"Noise Injection Ratio {100 * (ratio or 0):g}%"
    found = _printed().get((network, method))
    if found is None:
        return None
    table, bitops = found
    _, dense = _printed()[network, "dense"]
    return PrintedReduction(reduction=1 - bitops / dense, network=NETWORKS[network], table=table)


@cache
def _printed() -> dict[tuple[str, str], tuple[int, float]]:
    """(network, method) -> (table, BitOPs); the paper prints the same BitOPs for all data sets."""
    values: dict[tuple[str, str], tuple[int, float]] = {}
    for table in (1, 2, 4):
        with (REFERENCE / f"table{table}.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                dense = row["method"].startswith("Overfitting Adversarial Training")
                method = "dense" if dense else row["method"].removesuffix(" (Ours)")
                values.setdefault((row["model"], method), (table, float(row["bitops"])))
    return values
