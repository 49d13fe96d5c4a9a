"""The picture over the amount of noise: which points belong to one line."""

import pytest

from hwsim.figures import noise_sweep
from hwsim.sweep import FIGURES


def row(noise: str, share: float, value: float) -> dict[str, str]:
    """As a table of simulations is read: text."""
    known = {"network": "n", "core": "unstructured", "masks": "measured", "noise": noise}
    return known | {"noisy_share": str(share)} | {f"{name}_over_dense": str(value) for name in FIGURES}


def test_only_ratios_and_only_patterns_are_joined() -> None:
    """Networks of the same noisy share that are something else are points beside the line."""
    rows = [row("50%", 0.5, 0.6), row("90%", 0.9, 0.2), row("4:8", 0.5, 0.5), row("by layer", 0.7, 0.9)]
    figure = noise_sweep(rows)
    for ax in figure.axes:
        drawn = {str(line.get_label()): line for line in ax.get_lines() if "core" in str(line.get_label())}
        ratio, pattern, other = (
            drawn[f"unstructured core, {k}, measured masks"] for k in ("ratio", "N:M", "other noise")
        )
        assert list(ratio.get_xdata()) == pytest.approx([50, 90])
        assert list(pattern.get_xdata()) == pytest.approx([50])
        assert list(other.get_xdata()) == pytest.approx([70])
        assert other.get_linestyle() == "None"
        assert ratio.get_linestyle() != "None"
