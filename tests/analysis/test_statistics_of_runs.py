"""Spreads over seeds, McNemar's test and Holm's correction against closed forms and against scipy."""

from math import comb, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from analysis.statistics import holm, mcnemar, spread
from nenni_core.errors import InputError

VALUES = st.lists(st.floats(0, 1), min_size=2, max_size=12)


def test_three_seeds_by_hand() -> None:
    # mean 0.5, deviation 0.1; t(2) is 4.302652730 in every printed table of Student's distribution
    found = spread([0.4, 0.5, 0.6])
    assert found.mean == pytest.approx(0.5)
    assert found.deviation == pytest.approx(0.1)
    half = 4.302652730 * 0.1 / sqrt(3)
    assert found.interval == pytest.approx((0.5 - half, 0.5 + half), rel=1e-8)
    assert found.next_half_width == pytest.approx(4.302652730 * 0.1 * sqrt(4 / 3), rel=1e-8)


@given(VALUES)
def test_the_interval_is_that_of_the_t_test(values: list[float]) -> None:
    found = spread(values)
    assert found.interval is not None
    if np.std(values) > 1e-9:
        ends = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        assert found.interval == pytest.approx((ends.low, ends.high), rel=1e-6, abs=1e-9)
    assert found.interval[0] <= found.mean <= found.interval[1]


def test_one_seed_says_nothing_of_the_spread() -> None:
    found = spread([0.7])
    assert (found.mean, found.count) == (0.7, 1)
    assert found.deviation is found.interval is found.next_half_width is None
    with pytest.raises(InputError, match="0 seeds"):
        spread([])


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_sum_of_the_binomial_tails(only_first: int, only_second: int) -> None:
    count, fewer = only_first + only_second, min(only_first, only_second)
    tail = sum(comb(count, k) for k in range(fewer + 1)) / 2**count
    assert mcnemar(only_first, only_second) == pytest.approx(min(1.0, 2 * tail))
    assert mcnemar(only_first, only_second) == pytest.approx(mcnemar(only_second, only_first))


def test_mcnemar_by_hand() -> None:
    assert mcnemar(5, 0) == 2 / 32
    assert mcnemar(1, 9) == pytest.approx(2 * 11 / 1024)
    assert mcnemar(0, 0) == 1
    with pytest.raises(InputError, match="-1 and 3"):
        mcnemar(-1, 3)


def test_holm_by_hand() -> None:
    # in their order 0.01 * 4, 0.02 * 3, 0.03 * 2, and 0.9 * 1
    found = holm({"b": 0.02, "d": 0.9, "a": 0.01, "c": 0.03})
    assert list(found) == ["b", "d", "a", "c"]
    assert found == pytest.approx({"a": 0.04, "b": 0.06, "c": 0.06, "d": 0.9})
    assert holm({}) == {}


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_lies_between_the_value_and_bonferroni(values: list[float]) -> None:
    found = holm(dict(enumerate(values)))
    for place, value in enumerate(values):
        assert value <= found[place] <= min(1.0, len(values) * value)
    by_value = sorted(found, key=lambda place: values[place])
    assert [found[place] for place in by_value] == sorted(found.values())
