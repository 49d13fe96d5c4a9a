"""What a count of successes says about a probability, and a sample about its median."""

from collections.abc import Iterable
from fractions import Fraction
from math import inf, sqrt
from statistics import NormalDist, median

from nenni_core.errors import InputError


def wilson_interval(successes: float | int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """The (low, high) ends of Wilson's score interval for a binomial probability.

    Unlike the textbook interval it stays inside [0, 1] and keeps a sensible width when all or none of
    the trials succeed, which robust accuracies often do. A trial that succeeds with a chance counts as that
    part of a success; the interval is then wider than need be. Raises `InputError` unless
    0 <= successes <= trials, trials >= 1 and 0 < confidence < 1. Wilson 1927, JASA 22(158).
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise InputError(f"{successes} successes of {trials} trials: expected 0 <= successes <= trials >= 1")
    if not 0 < confidence < 1:
        raise InputError(f"confidence is {confidence}, expected a number between 0 and 1, such as 0.95")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    rate = successes / trials
    shrink = 1 + z * z / trials
    centre = (rate + z * z / (2 * trials)) / shrink
    half_width = z / shrink * sqrt(rate * (1 - rate) / trials + (z / (2 * trials)) ** 2)
    # At the two extremes an end is exactly 0 or 1, which the formula only reaches up to rounding.
    low = 0.0 if successes == 0 else max(0.0, centre - half_width)
    high = 1.0 if successes == trials else min(1.0, centre + half_width)
    return low, high


def median_interval(values: Iterable[float], confidence: float = 0.95) -> tuple[float, float, float]:
    """The median of a sample, and the (low, high) ends of its distribution-free interval.

    Values may be infinite. The ends are the order statistics between which the median of the distribution
    lies with at least the given probability, whatever the distribution is; too few values for that leave
    them at -inf and inf.
    Raises `InputError` without values, for NaN, and unless 0 < confidence < 1. Conover 1999, Practical
    Nonparametric Statistics, section 3.2.
    """
    ordered = sorted(values)
    count = len(ordered)
    if not ordered or any(value != value for value in ordered):
        raise InputError(f"a sample of {count} values: expected numbers, and at least one")
    if not 0 < confidence < 1:
        raise InputError(f"confidence is {confidence}, expected a number between 0 and 1, such as 0.95")
    # how many values may be left out at either end: fewer fair coins come up heads with half of what is left
    limit = Fraction(1 - confidence) / 2 * 2**count
    left_out, ways, below = -1, 1, 1
    while below <= limit:
        left_out += 1
        ways = ways * (count - left_out) // (left_out + 1)
        below += ways
    ends = (-inf, inf) if left_out < 0 else (ordered[left_out], ordered[-1 - left_out])
    return median(ordered), *ends
