"""What a count of successes says about a probability."""

from math import sqrt
from statistics import NormalDist

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
