"""Intervals of accuracies and of their differences."""

from dataclasses import replace
from math import sqrt

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import binomtest

from analysis.comparison import Fourfold, Share, difference, paired_difference
from nenni_core.errors import InputError

shares = st.integers(1, 2000).flatmap(
    lambda images: st.integers(0, images).map(lambda correct: Share(correct=correct, images=images))
)

fourfolds = st.tuples(*[st.integers(0, 400)] * 4).filter(any).map(lambda cells: fourfold(*cells))


def fourfold(both: float, only_now: float, only_before: float, neither: float) -> Fourfold:
    return Fourfold(both=both, only_now=only_now, only_before=only_before, neither=neither)


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


@pytest.mark.parametrize(
    ("cells", "low", "high"),
    [
        # Newcombe 1998 (Statistics in Medicine 17:2635), method 10
        ((20, 12, 2, 16), 0.0562, 0.3292),
        # Fagerland, Lydersen and Laake 2017, Statistical Analysis of Contingency Tables, chapter 8:
        # airways before and after a transplantation, complete response before and after a therapy
        ((1, 1, 7, 12), -0.507, -0.026),
        ((59, 6, 16, 80), -0.1186, -0.0046),
    ],
)
def test_the_paired_difference_has_the_published_intervals(cells, low, high) -> None:
    found = paired_difference(fourfold(*cells))
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-4)


@given(fourfolds)
def test_the_paired_difference_turns_around_with_its_arguments(counts: Fourfold) -> None:
    there = paired_difference(counts)
    turned = replace(counts, only_now=counts.only_before, only_before=counts.only_now)
    assert -1 - 1e-9 <= there.low <= there.value + 1e-12
    assert there.value - 1e-12 <= there.high <= 1 + 1e-9
    assert there.value == pytest.approx((counts.only_now - counts.only_before) / counts.images)
    back = paired_difference(turned)
    assert (there.value, there.low, there.high) == pytest.approx((-back.value, -back.high, -back.low))
    # who is right more often is who is wrong less often
    wrong = paired_difference(replace(counts, both=counts.neither, neither=counts.both))
    assert (there.low, there.high) == pytest.approx((wrong.low, wrong.high))


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 20), st.integers(1, 20))
def test_without_a_correlation_pairs_are_independent_samples(a: int, b: int, c: int, d: int) -> None:
    """Counts of two columns that know nothing of each other: the products of their margins."""
    counts = fourfold(a * c, a * d, b * c, b * d)
    apart = difference(counts.now, counts.before)
    found = paired_difference(counts)
    assert (found.low, found.value, found.high) == pytest.approx((apart.low, apart.value, apart.high))


@given(fourfolds)
def test_pairs_that_agree_more_than_by_chance_have_the_narrower_interval(counts: Fourfold) -> None:
    excess = counts.both * counts.neither - counts.only_now * counts.only_before
    apart, found = difference(counts.now, counts.before), paired_difference(counts)
    assume(excess != 0)
    if excess > 0:
        assert found.high - found.low <= apart.high - apart.low + 1e-12
    else:
        assert found.high - found.low >= apart.high - apart.low - 1e-12


@given(st.integers(1, 300), st.integers(0, 300))
def test_a_network_does_not_differ_clearly_from_itself_on_the_same_images(right: int, wrong: int) -> None:
    found = paired_difference(fourfold(right, 0, 0, wrong))
    assert found.value == 0
    assert found.low <= 0 <= found.high


@given(fourfolds.filter(lambda counts: counts.images >= 200))
def test_many_images_give_the_interval_of_the_normal_approximation(counts: Fourfold) -> None:
    """The variance of a paired difference, Agresti 2013, Categorical Data Analysis, section 11.1."""
    more = fourfold(*(1000 * cell + 1000 for cell in (counts.both, counts.only_now)),
                    *(1000 * cell + 1000 for cell in (counts.only_before, counts.neither)))  # fmt: skip
    found = paired_difference(more)
    apart, changed = more.only_now - more.only_before, more.only_now + more.only_before
    half = 1.959964 * sqrt(changed - apart**2 / more.images) / more.images
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.02)


def test_the_paired_interval_covers_the_difference() -> None:
    """Drawn again and again, the interval has the true difference in it about 95 times of 100."""
    chances, draws = (0.35, 0.12, 0.05, 0.48), 2000
    tables = np.random.default_rng(7).multinomial(200, chances, size=draws)
    covered = sum(
        found.low <= chances[1] - chances[2] <= found.high
        for table in tables.tolist()
        if (found := paired_difference(fourfold(*table)))
    )
    # three standard deviations of the count, around a rate that is close to nominal
    assert 0.935 <= covered / draws <= 0.975


@pytest.mark.parametrize("cells", [(0, 0, 0, 0), (3, -1, 2, 4)])
def test_counts_of_no_images_are_refused(cells) -> None:
    with pytest.raises(InputError, match="expected four counts from 0 on"):
        paired_difference(fourfold(*cells))
