"""Pareto fronts of networks that should be accurate and cheap: accuracy is maximised, cost minimised."""

from collections.abc import Sequence
from typing import NamedTuple


class Score(NamedTuple):
    """What a network is worth: the objectives of a search."""

    accuracy: float
    """A share of images, 0 to 1; more is better."""
    cost: float
    """Relative to the dense network, above 0; less is better."""


def dominates(one: Score, other: Score) -> bool:
    """Whether `one` is at least as good in both objectives, and better in one."""
    return one != other and one.accuracy >= other.accuracy and one.cost <= other.cost


def front(scores: Sequence[Score]) -> list[int]:
    """The places of the scores that no other one dominates, cheapest first; of equal ones the first."""
    order = sorted(range(len(scores)), key=lambda place: (scores[place].cost, -scores[place].accuracy, place))
    best: list[int] = []
    for place in order:
        if not best or scores[place].accuracy > scores[best[-1]].accuracy:
            best.append(place)
    return best


def hypervolume(scores: Sequence[Score], worst: Score) -> float:
    """The area that `scores` dominate within the rectangle that ends at `worst`.

    Zitzler and Thiele 1998 (PPSN V). Scores that are not better than `worst` in both objectives add nothing.
    """
    area, accuracy = 0.0, worst.accuracy
    for place in front(scores):
        score = scores[place]
        if score.cost < worst.cost and score.accuracy > accuracy:
            area += (worst.cost - score.cost) * (score.accuracy - accuracy)
            accuracy = score.accuracy
    return area
