"""What is injected where: the configuration of the method (paper sections 3.1, 3.2 and 3.5)."""

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Literal, NamedTuple

from nenni_core.errors import InputError, unknown_choice

GradientMode = Literal["blocked", "straight_through"]

_CHOICES = {
    "selection": ["top_k", "threshold"],
    "score": ["magnitude", "signed"],
    "target": ["non_essential", "essential", "random"],
    "scale": ["per_layer", "per_channel"],
    "randomize": ["fixed", "bank", "stochastic_rounding"],
    "gradient": ["blocked", "straight_through"],
}


class Pattern(NamedTuple):
    """Structured noise: `noisy` of every `group` consecutive channels at one position get noise."""

    noisy: int
    group: int

    @classmethod
    def parse(cls, text: str) -> "Pattern":
        """Read "N:M" with 0 <= N <= M and M >= 1; anything else is an `InputError`."""
        match = re.fullmatch(r"(\d+):(\d+)", text)
        if match is None:
            raise InputError(f"pattern {text!r} is not of the form 'N:M', for example '7:8'")
        noisy, group = int(match[1]), int(match[2])
        if group < 1 or noisy > group:
            raise InputError(
                f"pattern {text!r} asks for noise in {noisy} of {group} neurons; expected 0 <= N <= M"
            )
        return cls(noisy, group)

    def kept(self, size: int) -> int:
        """Essential neurons in a group of `size` channels; a short last group keeps its share, rounded up."""
        return -(-(self.group - self.noisy) * size // self.group)


@dataclass(frozen=True, kw_only=True)
class Injection:
    """How noise is injected into the non-essential neurons of a network.

    The first five fields say which neurons get noise and can be changed later (`set_injection`); the
    others say how the low-rank approximation is built and are fixed when it is.
    """

    ratio: float | None = 0.9
    """Share of a layer's outputs that get noise, in [0, 1]; None when `pattern` is given."""
    pattern: str | None = None
    """Structured noise "N:M": N of M consecutive channels at one position get noise."""
    selection: Literal["top_k", "threshold"] = "top_k"
    """Exact count per sample, or one threshold per layer that `calibrate` fixes on data."""
    score: Literal["magnitude", "signed"] = "magnitude"
    """Essential means largest |z_approx|, or largest z_approx."""
    target: Literal["non_essential", "essential", "random"] = "non_essential"
    """Which neurons get the noise; "essential" is the ablation of paper section 4.5, "random" the control:
    as many, drawn uniformly at each forward pass whatever their size (which makes the network random)."""
    projection_ratio: float = 0.25
    """Rank of the approximation over the layer's input dimension, k = ceil(projection_ratio * d)."""
    bits: int = 4
    """Width of the fixed-point numbers of the approximation."""
    scale: Literal["per_layer", "per_channel"] = "per_layer"
    """One power-of-two scale for a layer's approximate weights, or one for each output channel."""
    quantize_projected: bool = False
    """Whether the projected input P x is rounded to `bits` as well."""
    randomize: Literal["fixed", "bank", "stochastic_rounding"] = "fixed"
    """No randomness; one of `bank_size` projections drawn at each forward pass; or random rounding."""
    bank_size: int = 4
    """Number of (P, W~) pairs when `randomize` is "bank"; not read otherwise."""
    gradient: GradientMode = "straight_through"
    """What autograd sees of the low-precision path: nothing, or the rounding taken as the identity."""
    seed: int = 0
    """Seed of the random projections, together with each layer's name."""

    def __post_init__(self) -> None:
        for field, choices in _CHOICES.items():
            if getattr(self, field) not in choices:
                raise unknown_choice(field, str(getattr(self, field)), choices)
        for field in ("bits", "bank_size"):
            self._require(field, int, "a whole number")
        self._require("projection_ratio", (int, float), "a number")
        if self.ratio is not None:
            self._require("ratio", (int, float), "a number")
        if (self.ratio is None) == (self.pattern is None):
            raise InputError(
                f"give either a ratio or a pattern, not both and not neither: "
                f"ratio={self.ratio!r}, pattern={self.pattern!r}"
            )
        if self.ratio is not None and not 0 <= self.ratio <= 1:
            raise InputError(
                f"ratio {self.ratio!r} is outside [0, 1]; it is the share of neurons that get noise"
            )
        if self.target == "random" and self.selection == "threshold":
            raise InputError("target 'random' has no scores to put a threshold on; use selection 'top_k'")
        if self.pattern is not None:
            Pattern.parse(self.pattern)
            if self.selection == "threshold":
                raise InputError(
                    f"selection 'threshold' has no groups to keep the pattern {self.pattern!r}; use 'top_k'"
                )
        if not 0 < self.projection_ratio <= 1:
            raise InputError(f"projection_ratio {self.projection_ratio!r} is outside (0, 1]")
        if not 2 <= self.bits <= 16:
            raise InputError(f"bits {self.bits!r} is outside 2..16")
        if self.bank_size < 1:
            raise InputError(f"bank_size {self.bank_size!r} is less than 1")

    def _require(self, field: str, kind: type | tuple[type, ...], expected: str) -> None:
        value = getattr(self, field)
        if not isinstance(value, kind):
            raise InputError(f"{field} {value!r} is a {type(value).__name__}, expected {expected}")

    @property
    def is_random(self) -> bool:
        """Whether two forward passes of the same input differ."""
        return self.randomize != "fixed" or self.target == "random"

    @property
    def projections(self) -> int:
        """Number of (P, W~) pairs of a layer."""
        return self.bank_size if self.randomize == "bank" else 1

    @property
    def density(self) -> Fraction:
        """Nominal share of outputs that are computed precisely."""
        if self.pattern is not None:
            noisy, group = Pattern.parse(self.pattern)
            return Fraction(group - noisy, group)
        return 1 - _exact(self.ratio)

    def kept(self, outputs: int) -> int:
        """ceil((1 - ratio) * outputs), the number of precise outputs without a pattern.

        Computed with the decimal that was written: (1 - 0.99) * 100 is 1, not 1.0000000000000009.
        """
        share = (1 - _exact(self.ratio)) * outputs
        return -(-share.numerator // share.denominator)

    @property
    def label(self) -> str:
        """Short text for tables: the pattern, or the ratio in percent."""
        return self.pattern if self.pattern is not None else f"{float(_exact(self.ratio) * 100):g}%"


@lru_cache  # asked for by every layer in every pass
def _exact(ratio: float | None) -> Fraction:
    assert ratio is not None, "a pattern has no ratio"
    return Fraction(str(ratio))
