"""Does a measured number agree with the printed one, and do the methods come in the printed order?"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from analysis.comparison import Share, difference
from analysis.measurement import Measurement

AGREES, ABOVE, BELOW = "agrees", "above", "below"
RULE = (
    "The paper prints one number, without seeds or intervals. It counts as that of one more training on as "
    "many test images: it agrees where it is no further from ours than the tolerance. That is the half "
    "width of the 95% interval for the difference of two accuracies on separate samples of images "
    "(Newcombe), which is wider than two networks on the same images need and stands in for the unknown "
    "spread over seeds where there is one seed; with several it is that or the half width of the 95% "
    "interval for one more seed (Student), whichever is wider."
)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """`word` is "agrees", "above" or "below" (ours against the printed one); fractions."""

    word: str
    difference: float
    tolerance: float


def verdict(measured: Measurement, printed: float) -> Verdict:
    """Whether `measured` agrees with `printed`, a fraction, within the tolerance of `RULE`."""
    of_images = Share(correct=measured.value * measured.images, images=measured.images)
    theirs = Share(correct=printed * measured.images, images=measured.images)
    apart = difference(of_images, theirs)
    # the arm of the interval that points to zero decides
    towards = apart.value - apart.low if apart.value > 0 else apart.high - apart.value
    tolerance = max(towards, measured.spread.next_half_width or 0.0)
    side = ABOVE if apart.value > 0 else BELOW
    word = AGREES if abs(apart.value) <= tolerance else side
    return Verdict(word=word, difference=apart.value, tolerance=tolerance)


@dataclass(frozen=True, kw_only=True)
class Order:
    """Of all pairs of methods that the paper prints apart: how many come in its order, clearly or not."""

    as_printed: int
    reversed: int
    unclear: int

    @property
    def pairs(self) -> int:
        """How many pairs there are."""
        return self.as_printed + self.reversed + self.unclear


def order(measured: Mapping[Any, Measurement], printed: Mapping[Any, float]) -> Order:
    """How the methods in both `measured` and `printed` are ordered.

    A pair is clear where the 95% interval of its difference leaves zero out, on separate samples of images
    and, with several seeds each, for their means.
    """
    counts = {1: 0, -1: 0, 0: 0}
    for one, other in combinations([name for name in measured if name in printed], 2):
        if printed[one] == printed[other]:
            continue
        expected = 1 if printed[one] > printed[other] else -1
        counts[expected * _clear_sign(measured[one], measured[other])] += 1
    return Order(as_printed=counts[1], reversed=counts[-1], unclear=counts[0])


@dataclass(frozen=True)
class _Bounds:
    """A value with an interval that covers both seeds and images."""

    value: float
    interval: tuple[float, float]


def _clear_sign(one: Measurement, other: Measurement) -> int:
    return difference(_bounds(one), _bounds(other)).sign


def _bounds(measured: Measurement) -> _Bounds:
    low, high = measured.image_interval
    ends = measured.spread.interval or (low, high)
    return _Bounds(measured.value, (min(low, ends[0]), max(high, ends[1])))
