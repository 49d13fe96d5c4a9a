"""Intervals of accuracies and of their differences."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from analysis.comparison import Share, difference

shares = st.integers(1, 2000).flatmap(
    lambda images: st.integers(0, images).map(lambda correct: Share(correct=correct, images=images))
)


@given(shares)
def test_the_interval_is_scipys_wilson_interval(share: Share) -> None:
    theirs = binomtest(share.correct, share.images).proportion_ci(0.95, method="wilson")
    assert share.interval == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_an_interval_computed_by_hand() -> None:
    # z = 1.959964, centre (0.55 + z^2/400) / (1 + z^2/200) = 0.549058, half width 0.068302
    assert Share(correct=110, images=200).interval == pytest.approx((0.480756, 0.617360), abs=2e-6)


@pytest.mark.parametrize(
    ("now", "before", "low", "high"),
    [
        # Newcombe 1998, table II, method 10
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((10, 10), (0, 20), 0.6791, 1.0000),
    ],
)
def test_the_difference_has_newcombes_interval(now, before, low, high) -> None:
    found = difference(Share(correct=now[0], images=now[1]), Share(correct=before[0], images=before[1]))
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)


@given(shares, shares)
def test_the_difference_turns_around_with_its_arguments(one: Share, other: Share) -> None:
    there, back = difference(one, other), difference(other, one)
    assert -1 - 1e-9 <= there.low <= there.value <= there.high <= 1 + 1e-9
    assert (there.value, there.low, there.high) == pytest.approx((-back.value, -back.high, -back.low))
    assert there.sign == -back.sign


@given(shares)
def test_a_share_does_not_differ_clearly_from_itself(share: Share) -> None:
    assert difference(share, share).sign == 0


def test_the_sign_says_what_is_clear() -> None:
    few, many = Share(correct=100, images=200), Share(correct=140, images=200)
    assert difference(many, few).sign == 1
    assert difference(few, many).sign == -1
    assert difference(Share(correct=105, images=200), few).sign == 0
