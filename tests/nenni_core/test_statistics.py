"""Intervals against scipy's, which are computed by other code."""

from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, quantile_test

from nenni_core.errors import InputError
from nenni_core.statistics import median_interval, wilson_interval


@st.composite
def counts(draw: st.DrawFn) -> tuple[int, int]:
    trials = draw(st.integers(1, 20_000))
    return draw(st.integers(0, trials)), trials


@given(counts(), st.floats(0.5, 0.999))
def test_equals_scipy(count, confidence):
    successes, trials = count
    expected = binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    low, high = wilson_interval(successes, trials, confidence)
    assert low == pytest.approx(expected.low, abs=1e-9)
    assert high == pytest.approx(expected.high, abs=1e-9)
    assert 0 <= low <= successes / trials <= high <= 1


@given(counts())
def test_failures_mirror_successes(count):
    successes, trials = count
    low, high = wilson_interval(successes, trials)
    mirrored = wilson_interval(trials - successes, trials)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-12)


@pytest.mark.parametrize("arguments", [(1, 0), (-1, 5), (6, 5), (1, 5, 0.0), (1, 5, 1.0)])
def test_refuses_what_is_no_count(arguments):
    with pytest.raises(InputError, match="expected"):
        wilson_interval(*arguments)


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=200), st.sampled_from((0.8, 0.95, 0.99)))
def test_the_ends_of_a_median_equal_scipys(values, confidence):
    value, low, high = median_interval(values, confidence)
    expected = quantile_test(values, p=0.5).confidence_interval(confidence)
    assert value == pytest.approx(np.median(values))
    assert low == (-inf if np.isnan(expected.low) else expected.low)
    assert high == (inf if np.isnan(expected.high) else expected.high)


def test_what_lies_infinitely_far_counts():
    assert median_interval([1.0] * 60 + [inf] * 40) == (1.0, 1.0, inf)
    assert median_interval([1.0] * 40 + [inf] * 60) == (inf, 1.0, inf)
    assert median_interval([3.0]) == (3.0, -inf, inf)


@pytest.mark.parametrize("arguments", [([],), ([1.0, float("nan")],), ([1.0], 0.0), ([1.0], 1.0)])
def test_refuses_what_has_no_median(arguments):
    with pytest.raises(InputError, match="expected"):
        median_interval(*arguments)
