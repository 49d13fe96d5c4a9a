"""Intervals against scipy's, which are computed by other code."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from nenni_core.errors import InputError
from nenni_core.statistics import wilson_interval


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
