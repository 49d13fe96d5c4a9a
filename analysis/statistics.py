"""What several seeds say about a number, and what the same images say about two networks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import mean, stdev
from typing import TypeVar

from nenni_core.errors import InputError

CONFIDENCE = 0.95
Name = TypeVar("Name")


@dataclass(frozen=True, kw_only=True)
class Spread:
    """The mean of one number per seed, its sample standard deviation, and the ends of a 95% t-interval.

    The interval is that of the mean over all seeds that could have been drawn, on these very images: it
    assumes that the seeds' numbers are about normally distributed. All of it is None for a single seed, whose
    spread nobody knows; the mean is then that seed's number.
    """

    mean: float
    count: int
    deviation: float | None = None
    interval: tuple[float, float] | None = None

    @property
    def next_half_width(self) -> float | None:
        """Half the width of the 95% interval for the number of one further seed; None for a single seed.

        Hahn and Meeker 1991, Statistical Intervals, section 4.7: t * s * sqrt(1 + 1 / n).
        """
        if self.deviation is None:
            return None
        return student_quantile(self.count - 1) * self.deviation * sqrt(1 + 1 / self.count)


def spread(values: Sequence[float]) -> Spread:
    """The spread of one number per seed. Raises `InputError` for none."""
    if not values:
        raise InputError("a spread over 0 seeds: expected at least one number")
    middle = mean(values)
    if len(values) == 1:
        return Spread(mean=middle, count=1)
    deviation = stdev(values)
    half = student_quantile(len(values) - 1) * deviation / sqrt(len(values))
    return Spread(
        mean=middle, count=len(values), deviation=deviation, interval=(middle - half, middle + half)
    )


def student_quantile(freedom: int) -> float:
    """What |t| of Student's distribution with `freedom` degrees of freedom exceeds in 5% of all cases."""
    from scipy.stats import t

    return float(t.ppf((1 + CONFIDENCE) / 2, freedom))


def mcnemar(only_first: int, only_second: int) -> float:
    """The two-sided p-value of McNemar's exact test.

    `only_first` images are right with the first network alone, `only_second` with the second alone; images on
    which both are right or both wrong say nothing about which is better. Where the two are equally good, each
    of the former is a fair coin (McNemar 1947, Psychometrika 12:153). 1 if there are none.
    Raises `InputError` for a negative count.
    """
    if min(only_first, only_second) < 0:
        raise InputError(f"{only_first} and {only_second} discordant images: expected counts from 0 on")
    if only_first + only_second == 0:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(only_first, only_first + only_second, 0.5).pvalue)


def holm(p_values: Mapping[Name, float]) -> dict[Name, float]:
    """p-values adjusted for their number, in the order given.

    Rejecting what is at most 0.05 then rejects any true hypothesis with a probability of at most 5%, whatever
    depends on what (Holm 1979, Scandinavian Journal of Statistics 6:65).
    """
    adjusted: dict[Name, float] = {}
    largest = 0.0
    for place, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}
