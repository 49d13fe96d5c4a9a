"""Selection against an obviously right twin: a stable sort."""

from itertools import product

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from hypothesis.extra.numpy import arrays

from nenni_core.injection import Injection, Pattern
from nenni_core.selection import (
    largest_per_group,
    largest_per_row,
    select_essential,
    select_essential_integers,
    selection_network,
    sorting_network,
)

# few distinct values, so that ties are the rule
SCORES = st.tuples(st.integers(1, 4), st.integers(1, 40)).flatmap(
    lambda shape: arrays(
        "float32", shape, elements=st.sampled_from([-2.0, -1.0, -0.0, 0.0, 0.5, 1.0, 2.0, 7.5])
    )
)
RATIOS = st.sampled_from([0.0, 0.01, 0.1, 0.3, 0.5, 0.9, 0.99, 1.0])
PATTERNS = st.sampled_from(["0:4", "1:8", "2:4", "4:8", "7:8", "3:5", "20:23", "8:8", "1:1"])


def by_stable_sort(scores: torch.Tensor, keep: int) -> torch.Tensor:
    order = torch.argsort(scores, dim=1, descending=True, stable=True)
    return torch.zeros_like(scores, dtype=torch.bool).scatter(1, order[:, :keep], True)


@given(scores=SCORES, data=st.data())
def test_largest_per_row_equals_a_stable_sort(scores, data) -> None:  # type: ignore[no-untyped-def]
    keep = data.draw(st.integers(0, scores.shape[1]))
    tensor = torch.from_numpy(scores) + 0.0  # -0.0 and 0.0 are one score
    assert torch.equal(largest_per_row(tensor, keep), by_stable_sort(tensor, keep))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_long_rows_equal_a_stable_sort_on_any_number_of_threads(threads: int) -> None:
    scores = torch.randn(9, 40_000, generator=torch.Generator().manual_seed(0))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert torch.equal(largest_per_row(scores, 4000), by_stable_sort(scores, 4000))
    finally:
        torch.set_num_threads(before)


@given(scores=SCORES, text=PATTERNS)
def test_every_group_keeps_exactly_its_share(scores, text: str) -> None:  # type: ignore[no-untyped-def]
    pattern = Pattern.parse(text)
    tensor = torch.from_numpy(scores)
    mask = largest_per_group(tensor, pattern.group, pattern.kept)
    for start in range(0, tensor.shape[1], pattern.group):
        part = tensor[:, start : start + pattern.group]
        kept = mask[:, start : start + pattern.group]
        assert (kept.sum(1) == pattern.kept(part.shape[1])).all()
        if part.shape[1] == pattern.group:
            assert (kept.sum(1) == pattern.group - pattern.noisy).all()
        smallest_kept = part.masked_fill(~kept, float("inf")).min(1).values
        largest_dropped = part.masked_fill(kept, float("-inf")).max(1).values
        assert (smallest_kept >= largest_dropped).all()


@given(
    scores=SCORES,
    ratio=RATIOS,
    score=st.sampled_from(["magnitude", "signed"]),
    target=st.sampled_from(["non_essential", "essential"]),
)
def test_exactly_the_configured_count_is_kept(scores, ratio, score, target) -> None:  # type: ignore[no-untyped-def]
    injection = Injection(ratio=ratio, score=score, target=target)
    values = torch.from_numpy(scores)
    mask = select_essential(values, injection)
    assert (mask.sum(1) == injection.kept(values.shape[1])).all()
    key = values.abs() if score == "magnitude" else values + 0.0
    rank = key if target == "non_essential" else -key
    smallest_kept = rank.masked_fill(~mask, float("inf")).min(1).values
    largest_dropped = rank.masked_fill(mask, float("-inf")).max(1).values
    assert (smallest_kept >= largest_dropped).all()


@given(
    scores=SCORES,
    choice=st.one_of(
        RATIOS.map(lambda r: {"ratio": r}), PATTERNS.map(lambda p: {"ratio": None, "pattern": p})
    ),
    score=st.sampled_from(["magnitude", "signed"]),
    target=st.sampled_from(["non_essential", "essential"]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_integer_masks_equal_the_boolean_ones(scores, choice, score, target, dtype) -> None:  # type: ignore[no-untyped-def]
    injection = Injection(**choice, score=score, target=target)
    values = (torch.from_numpy(scores) + 0.0).to(dtype)
    integers = select_essential_integers(values, injection)
    assert set(integers.unique().tolist()) <= {0, 1}
    assert torch.equal(integers == 1, select_essential(values, injection))


@given(
    scores=SCORES,
    threshold=st.sampled_from([-1.0, -0.0, 0.0, 0.5, 1.5, float("inf"), float("nan")]),
    score=st.sampled_from(["magnitude", "signed"]),
    target=st.sampled_from(["non_essential", "essential"]),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
)
def test_integer_masks_of_a_threshold_equal_the_boolean_ones(  # type: ignore[no-untyped-def]
    scores, threshold: float, score, target, dtype: torch.dtype
) -> None:
    injection = Injection(selection="threshold", score=score, target=target)
    values, border = torch.from_numpy(scores).to(dtype), torch.tensor(threshold)
    integers = select_essential_integers(values, injection, border)
    assert set(integers.unique().tolist()) <= {0, 1}
    assert torch.equal(integers == 1, select_essential(values, injection, border))


@pytest.mark.parametrize("length", range(1, 17))
def test_sorting_network_sorts(length: int) -> None:
    """By the 0-1 principle it is enough to sort all zero-one inputs (Knuth, TAOCP 5.3.4)."""
    inputs = torch.tensor(list(product((0, 1), repeat=min(length, 12))), dtype=torch.int8)
    if inputs.shape[1] < length:  # all 2^16 would be slow: the rest at random
        inputs = torch.randint(
            0, 2, (4096, length), generator=torch.Generator().manual_seed(length), dtype=torch.int8
        )
    columns = list(inputs.unbind(1))
    for low, high in sorting_network(length):
        columns[low], columns[high] = columns[low] | columns[high], columns[low] & columns[high]
    assert torch.equal(torch.stack(columns, 1), inputs.sort(dim=1, descending=True).values)


@pytest.mark.parametrize(
    ("ratio", "outputs", "kept"),
    [(0.9, 10, 1), (0.99, 100, 1), (0.99, 101, 2), (0.5, 7, 4), (0.0, 5, 5), (1.0, 5, 0)],
)
def test_kept_count_is_that_of_the_written_decimal(ratio: float, outputs: int, kept: int) -> None:
    assert Injection(ratio=ratio).kept(outputs) == kept


def test_threshold_selection_compares_with_the_threshold() -> None:
    values = torch.tensor([[-3.0, 1.0, 2.0, 0.5]])
    mask = select_essential(values, Injection(selection="threshold"), torch.tensor(1.5))
    assert mask.tolist() == [[True, False, True, False]]


@pytest.mark.parametrize("length", [1, 2, 3, 5, 8, 13, 16])
def test_a_selection_network_finds_every_place(length: int) -> None:
    """By the zero-one principle (Knuth, The Art of Computer Programming 3, 5.3.4), on all rows of bits."""
    bits = torch.arange(2**length)[:, None] >> torch.arange(length) & 1
    for k in range(1, length + 1):
        columns = list(bits.unbind(dim=1))
        for low, high, larger, smaller in selection_network(length, k):
            one, other = columns[low], columns[high]
            columns[low] = torch.maximum(one, other) if larger else torch.full_like(one, 9)
            columns[high] = torch.minimum(one, other) if smaller else torch.full_like(one, 9)
        assert torch.equal(columns[k - 1], bits.sort(dim=1, descending=True).values[:, k - 1])


def test_the_largest_of_a_group_takes_one_comparison_less_than_there_are() -> None:
    assert len(selection_network(8, 1)) == 7
    assert not any(smaller for _, _, _, smaller in selection_network(8, 1))
