"""Pareto fronts against brute force."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.pareto import Score, dominates, front, hypervolume

VALUES = st.integers(0, 6).map(lambda number: number / 6)  # few values: ties are common
SCORES = st.lists(st.builds(Score, VALUES, VALUES), max_size=12)
WORST = Score(0.0, 1.0)


@given(SCORES)
def test_the_front_is_what_nothing_dominates(scores: list[Score]) -> None:
    found = front(scores)
    undominated = {one for one in scores if not any(dominates(other, one) for other in scores)}
    assert {scores[place] for place in found} == undominated
    assert len(found) == len(undominated)  # of equal scores one stands for all
    assert all(scores.index(scores[place]) == place for place in found)


@given(SCORES)
def test_along_the_front_more_accuracy_costs_more(scores: list[Score]) -> None:
    for cheap, dear in pairwise(scores[place] for place in front(scores)):
        assert cheap.cost < dear.cost
        assert cheap.accuracy < dear.accuracy


@given(st.builds(Score, VALUES, VALUES), st.builds(Score, VALUES, VALUES), st.builds(Score, VALUES, VALUES))
def test_domination_is_a_strict_order(one: Score, two: Score, three: Score) -> None:
    assert not dominates(one, one)
    assert not (dominates(one, two) and dominates(two, one))
    if dominates(one, two) and dominates(two, three):
        assert dominates(one, three)


@given(SCORES)
def test_the_hypervolume_is_the_area_of_all_dominated_cells(scores: list[Score]) -> None:
    """Counted cell by cell on the grid that all values lie on."""
    cells = sum(
        any(score.accuracy >= (i + 1) / 6 and score.cost <= j / 6 for score in scores)
        for i in range(6)
        for j in range(6)
    )
    assert hypervolume(scores, WORST) == pytest.approx(cells / 36)


@given(SCORES, st.builds(Score, VALUES, VALUES))
def test_one_more_score_never_makes_it_smaller(scores: list[Score], more: Score) -> None:
    assert hypervolume([*scores, more], WORST) >= hypervolume(scores, WORST) - 1e-12
