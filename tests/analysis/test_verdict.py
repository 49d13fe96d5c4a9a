"""Verdicts against printed numbers, and orders of methods."""

from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.comparison import Share
from analysis.measurement import Measurement
from analysis.verdict import ABOVE, AGREES, BELOW, order, verdict

IMAGES = 10_000


def measured(*counts: int, images: int = IMAGES) -> Measurement:
    shares = tuple(Share(correct=count, images=images) for count in counts)
    return Measurement(seeds=tuple(range(len(counts))), shares=shares)


def test_one_seed_is_judged_by_two_samples_of_images() -> None:
    # both near one half: 1.96 * sqrt(2 * 0.25 / 10000) is 1.386 points
    found = verdict(measured(5000), 0.51)
    assert found.tolerance == pytest.approx(1.959964 * sqrt(0.5 / IMAGES), rel=1e-3)
    assert (found.word, found.difference) == (AGREES, pytest.approx(-0.01))
    assert verdict(measured(5000), 0.52).word == BELOW
    assert verdict(measured(5000), 0.48).word == ABOVE


def test_seeds_that_differ_much_widen_the_tolerance() -> None:
    # 48, 50 and 52%: deviation 2 points, t(2) = 4.30265, for one more seed times sqrt(4/3)
    found = verdict(measured(4800, 5000, 5200), 0.55)
    assert found.tolerance == pytest.approx(4.30265 * 0.02 * sqrt(4 / 3), rel=1e-5)
    assert found.word == AGREES


def test_seeds_that_agree_by_chance_do_not_narrow_it() -> None:
    assert verdict(measured(5000, 5000), 0.5).tolerance == pytest.approx(
        verdict(measured(5000), 0.5).tolerance
    )


@given(st.integers(0, IMAGES), st.integers(0, IMAGES))
def test_the_verdict_follows_the_difference(ours: int, theirs: int) -> None:
    found = verdict(measured(ours), theirs / IMAGES)
    assert found.tolerance > 0
    assert (found.word == AGREES) == (abs(found.difference) <= found.tolerance)
    mirrored = verdict(measured(theirs), ours / IMAGES)
    opposite = {ABOVE: BELOW, BELOW: ABOVE, AGREES: AGREES}
    assert mirrored.word == opposite[found.word]


def test_an_order_by_hand() -> None:
    ours = {"a": measured(6000), "b": measured(5000), "c": measured(5010), "d": measured(9000)}
    printed = {"a": 0.5, "b": 0.6, "c": 0.4, "e": 0.1}
    found = order(ours, printed)
    # a and b are reversed, a above c as printed, b and c too near; d is not printed, e not measured
    assert (found.as_printed, found.reversed, found.unclear, found.pairs) == (1, 1, 1, 3)
    equal = order({"a": measured(1), "b": measured(2)}, {"a": 0.5, "b": 0.5})
    assert equal.pairs == 0
