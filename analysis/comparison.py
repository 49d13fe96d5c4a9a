"""Whether two accuracies differ, and by how much."""

from dataclasses import dataclass
from math import sqrt
from typing import Protocol

from nenni_core.statistics import wilson_interval


@dataclass(frozen=True, kw_only=True)
class Share:
    """`correct` of `images` test images are classified rightly.

    Of a random network that is judged on several noise draws, `correct` is the mean over them.
    """

    correct: float
    images: int

    @property
    def count(self) -> int | None:
        """`correct` as a count of images; None where it is a mean that is no whole number."""
        return int(self.correct) if float(self.correct).is_integer() else None

    @property
    def value(self) -> float:
        """The accuracy, a fraction from 0 to 1."""
        return self.correct / self.images

    @property
    def interval(self) -> tuple[float, float]:
        """The (low, high) ends of the 95% Wilson interval, fractions from 0 to 1."""
        return wilson_interval(self.correct, self.images)


@dataclass(frozen=True, kw_only=True)
class Distance:
    """A median l2 distance with the ends of its 95% interval, of which the upper one may be infinite."""

    value: float
    interval: tuple[float, float]


class Estimate(Protocol):
    """A number with a 95% interval: a `Share` or a `Distance`."""

    @property
    def value(self) -> float: ...

    @property
    def interval(self) -> tuple[float, float]: ...


@dataclass(frozen=True, kw_only=True)
class Difference:
    """`value` with its 95% interval; of two shares all three are fractions from -1 to 1."""

    value: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """1 for a clear rise, -1 for a clear fall, 0 where the interval includes zero."""
        if self.low > 0:
            return 1
        return -1 if self.high < 0 else 0


def difference(now: Estimate, before: Estimate) -> Difference:
    """How much larger `now` is than `before`, with the interval of two independent samples.

    Newcombe 1998 (Statistics in Medicine 17:873), method 10: the Wilson intervals of both shares combined;
    for distances the same rule with their intervals (Zou and Donner 2008, Statistics in Medicine 27:1693).
    Networks that see the same images tend to err on the same ones; the true interval is then narrower, so
    that what is called clear here is clear in a paired comparison as well.
    """
    now_low, now_high = now.interval
    before_low, before_high = before.interval
    value = now.value - before.value
    return Difference(
        value=value,
        low=value - sqrt((now.value - now_low) ** 2 + (before_high - before.value) ** 2),
        high=value + sqrt((now_high - now.value) ** 2 + (before.value - before_low) ** 2),
    )
