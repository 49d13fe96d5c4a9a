"""Whether two accuracies differ, and by how much."""

from dataclasses import dataclass
from math import sqrt
from typing import Protocol

from nenni_core.errors import InputError
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
    Networks that see the same images tend to err on the same ones; the true interval is then narrower, which
    `paired_difference` makes use of where it is known which images those are.
    """
    now_low, now_high = now.interval
    before_low, before_high = before.interval
    value = now.value - before.value
    return Difference(
        value=value,
        low=value - sqrt((now.value - now_low) ** 2 + (before_high - before.value) ** 2),
        high=value + sqrt((now_high - now.value) ** 2 + (before.value - before_low) ** 2),
    )


@dataclass(frozen=True, kw_only=True)
class Fourfold:
    """On how many of the same images both networks are right, one of the two alone, or neither.

    The counts are whole but for random networks, which are right about an image with a chance: then they are
    what is expected of one noise draw of each.
    """

    both: float
    only_now: float
    only_before: float
    neither: float

    @property
    def images(self) -> int:
        """How many images there are."""
        return round(self.both + self.only_now + self.only_before + self.neither)

    @property
    def now(self) -> Share:
        """The images that the first network is right about."""
        return Share(correct=min(self.both + self.only_now, self.images), images=self.images)

    @property
    def before(self) -> Share:
        """The images that the second network is right about."""
        return Share(correct=min(self.both + self.only_before, self.images), images=self.images)


def paired_difference(counts: Fourfold) -> Difference:
    """How much more often `now` is right than `before` on the same images, with the interval of pairs.

    Newcombe 1998 (Statistics in Medicine 17:2635), method 10: both Wilson intervals combined as in
    `difference`, less what the two have in common by their correlation phi; a positive one is corrected for
    continuity, so that the interval is never narrower than it is entitled to be. Without a correlation it is
    the interval of independent samples. Raises `InputError` for a negative count and for no images.
    """
    cells = (counts.both, counts.only_now, counts.only_before, counts.neither)
    if min(cells) < 0 or counts.images < 1:
        listed = ", ".join(f"{cell:g}" for cell in cells)
        raise InputError(f"{listed} images: expected four counts from 0 on, and at least one image")
    now, before = counts.now, counts.before
    (now_low, now_high), (before_low, before_high) = now.interval, before.interval
    phi = _phi(counts)
    value = now.value - before.value

    def arm(one: float, other: float) -> float:
        # at the extremes of phi rounding may leave less than nothing
        return sqrt(max(0.0, one**2 - 2 * phi * one * other + other**2))

    return Difference(
        value=value,
        low=value - arm(now.value - now_low, before_high - before.value),
        high=value + arm(now_high - now.value, before.value - before_low),
    )


def _phi(counts: Fourfold) -> float:
    """The correlation of being right, a positive one corrected for continuity; 0 where one is constant."""
    now, before, images = counts.now.correct, counts.before.correct, counts.images
    product = now * (images - now) * before * (images - before)
    if product <= 0:
        return 0.0
    excess = counts.both * counts.neither - counts.only_now * counts.only_before
    if excess > 0:
        excess = max(0.0, excess - images / 2)
    return max(-1.0, min(1.0, excess / sqrt(product)))
