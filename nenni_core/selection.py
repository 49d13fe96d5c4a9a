"""Which neurons are essential (paper section 3.2, and 3.5 for N:M patterns).

Scores are given channels last. Masks are True where a neuron is essential, that is, kept precise. Equal
scores are told apart by their index: the lower one wins. Indices run over channels first, then columns,
then rows: the order in which hardware that streams positions sees them.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from nenni_core.injection import Injection, Pattern

NETWORK_LIMIT = 16
"""Rows up to this length are ordered by a sorting network, whose comparisons run over all rows at once."""

BLOCK = 1 << 17
"""Values that are partitioned at a time: half a megabyte of float32, a part of a core's cache."""

INTEGERS = {
    torch.float64: torch.int64,
    torch.float32: torch.int32,
    torch.bfloat16: torch.int16,
    torch.float16: torch.int16,
}
"""The integers as wide as each type of scores."""


def select_essential(
    z_approx: Float[Tensor, "batch *position channels"],
    injection: Injection,
    threshold: Float[Tensor, ""] | None = None,
) -> Bool[Tensor, "batch *position channels"]:
    """The mask of a layer: True where the precise output is kept.

    Without a pattern, each sample keeps exactly `injection.kept(n * H * W)` outputs. With
    `target="essential"` as many outputs are kept, but the smallest ones. `threshold` is read only with
    `selection="threshold"`.
    """
    scores = _scores(z_approx, injection)
    invert = injection.target == "essential"
    if injection.selection == "threshold":
        assert threshold is not None, "the layer has checked that it is calibrated"
        return scores <= threshold if invert else scores > threshold
    if injection.pattern is not None:
        pattern = Pattern.parse(injection.pattern)
        by_position = scores.reshape(-1, scores.shape[-1])
        if invert:
            mask = ~largest_per_group(by_position, pattern.group, lambda size: size - pattern.kept(size))
        else:
            mask = largest_per_group(by_position, pattern.group, pattern.kept)
    else:
        by_sample = scores.reshape(len(scores), -1)
        outputs = by_sample.shape[1]
        kept = injection.kept(outputs)
        mask = ~largest_per_row(by_sample, outputs - kept) if invert else largest_per_row(by_sample, kept)
    return mask.reshape(scores.shape)


def _scores(z_approx: Tensor, injection: Injection) -> Tensor:
    """What neurons are selected by, in single precision at least."""
    scores = z_approx.detach()
    if scores.dtype != torch.float64:
        scores = scores.float()
    return scores.abs() if injection.score == "magnitude" else scores


def select_essential_integers(
    z_approx: Float[Tensor, "batch *position channels"],
    injection: Injection,
    threshold: Float[Tensor, ""] | None = None,
) -> Int[Tensor, "batch *position channels"]:
    """`select_essential` for the CPU, as integers of the scores' width: 1 where essential, 0 where noise.

    PyTorch's operations with boolean masks are not vectorised on the CPU; those whose result has the type
    of their operands are. Floating-point magnitudes are ordered like their bit patterns.
    """
    integer = INTEGERS[z_approx.dtype]
    if injection.selection == "threshold":
        assert threshold is not None, "the layer has checked that it is calibrated"
        scores = _scores(z_approx, injection)
        compare = torch.le if injection.target == "essential" else torch.gt
        return compare(scores, threshold, out=torch.empty_like(scores)).to(integer)
    if injection.score != "magnitude":
        return select_essential(z_approx, injection).to(integer)
    bits = z_approx.detach().view(integer)
    kept_of: Callable[[int], int]
    if injection.pattern is not None:
        pattern = Pattern.parse(injection.pattern)
        rows, group, kept_of = bits.reshape(-1, bits.shape[-1]), pattern.group, pattern.kept
    else:
        rows = bits.reshape(len(bits), -1)
        group, kept_of = rows.shape[1], injection.kept

    def essential(part: Tensor) -> Tensor:
        size = part.shape[1]
        if injection.target == "essential":
            return _mark_largest(part, size - kept_of(size)).bitwise_xor_(1)
        return _mark_largest(part, kept_of(size))

    return _by_group(rows, group, essential).view(z_approx.shape)


def largest_per_row(scores: Float[Tensor, "rows length"], keep: int) -> Bool[Tensor, "rows length"]:
    """Exactly the `keep` largest scores of each row; among equal ones the lower index wins."""
    if keep <= 0 or keep >= scores.shape[1]:
        return torch.full_like(scores, keep > 0, dtype=torch.bool)
    smallest_kept = _kth_largest(scores, keep)
    above = scores > smallest_kept
    tied = scores == smallest_kept
    return above | (tied & (tied.cumsum(dim=1) <= keep - above.sum(dim=1, keepdim=True)))


def largest_per_group(
    scores: Float[Tensor, "rows channels"], group: int, keep: Callable[[int], int]
) -> Bool[Tensor, "rows channels"]:
    """Of every `group` consecutive channels exactly the `keep(group)` largest; the lower index wins ties.

    A last, shorter group of s channels keeps `keep(s)`.
    """
    return _by_group(scores, group, lambda part: largest_per_row(part, keep(part.shape[1])))


def _by_group(
    values: Shaped[Tensor, "rows channels"], group: int, function: Callable[[Tensor], Tensor]
) -> Shaped[Tensor, "rows channels"]:
    """`function` of the groups as rows of their own; a last, shorter group comes by itself."""
    rows, channels = values.shape
    whole = channels - channels % group
    parts = []
    if whole:
        parts.append(function(values[:, :whole].reshape(-1, group)).reshape(rows, whole))
    if whole < channels:
        parts.append(function(values[:, whole:]))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _kth_largest(values: Shaped[Tensor, "rows length"], k: int) -> Shaped[Tensor, "rows 1"]:
    """The `k`-th largest value of each row."""
    length = values.shape[1]
    if length <= NETWORK_LIMIT:
        columns = [values[:, i].contiguous() for i in range(length)]
        for low, high, larger_is_read, smaller_is_read in selection_network(length, k):
            one, other = columns[low], columns[high]
            if larger_is_read:
                columns[low] = torch.maximum(one, other)
            if smaller_is_read:
                columns[high] = torch.minimum(one, other)
        return columns[k - 1].unsqueeze(1)
    if values.device.type == "cpu":
        return _partitioned(values.numpy(), length - k)
    return values.kthvalue(length - k + 1, dim=1, keepdim=True).values


def _partitioned(rows: np.ndarray, position: int) -> Shaped[Tensor, "rows 1"]:
    """The value at `position` of each row in ascending order.

    NumPy's introselect is several times faster than `torch.kthvalue`. It reorders a copy of a few rows at a
    time, which stays in the cache and does not hold the interpreter lock.
    """
    values = np.empty((len(rows), 1), rows.dtype)
    step = max(1, BLOCK // rows.shape[1])

    def select(start: int) -> None:
        block = rows[start : start + step].copy()
        block.partition(position, axis=1)
        values[start : start + step, 0] = block[:, position]

    starts = range(0, len(rows), step)
    workers = min(torch.get_num_threads(), len(starts))
    if workers > 2:  # with two, OpenMP's idle thread occupies the second core and nothing is gained
        list(_pool(workers).map(select, starts))
    else:
        for start in starts:
            select(start)
    return torch.from_numpy(values)


@cache
def _pool(workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, thread_name_prefix="nenni-selection")


@cache
def sorting_network(length: int) -> tuple[tuple[int, int], ...]:
    """Pairs of positions to compare and exchange, in order, that sort any `length` values (Batcher 1968)."""
    pairs = []
    stride = 1
    while stride < length:
        step = stride
        while step >= 1:
            for start in range(step % stride, length - step, 2 * step):
                for i in range(start, min(start + step, length - step)):
                    if i // (2 * stride) == (i + step) // (2 * stride):
                        pairs.append((i, i + step))
            step //= 2
        stride *= 2
    return tuple(pairs)


@cache
def selection_network(length: int, k: int) -> tuple[tuple[int, int, bool, bool], ...]:
    """The part of `sorting_network(length)` that the `k`-th place depends on, and which results are read.

    The largest of 8 takes 7 of the 19 comparisons, one result of each.
    """
    needed, parts = {k - 1}, []
    for low, high in reversed(sorting_network(length)):
        if low in needed or high in needed:
            parts.append((low, high, low in needed, high in needed))
            needed |= {low, high}
    return tuple(reversed(parts))


def _mark_largest(bits: Int[Tensor, "rows length"], keep: int) -> Int[Tensor, "rows length"]:
    """1 for the `keep` largest magnitudes of each row, 0 for the others; of numbers given as their bits."""
    length = bits.shape[1]
    if keep <= 0 or keep >= length:
        return torch.full_like(bits, int(keep > 0))
    magnitude = torch.iinfo(bits.dtype).max  # all bits but the sign
    marks = bits & magnitude
    smallest_kept = _kth_largest(marks, keep)
    marks.ge_(smallest_kept)
    surplus = marks.sum(dim=1, dtype=torch.int32) - keep  # ties that are kept but should not be
    rows = surplus.nonzero().flatten()
    if len(rows) > 0:
        tied = (bits[rows] & magnitude) == smallest_kept[rows]
        last = tied.sum(dim=1, keepdim=True) - surplus[rows].unsqueeze(1)
        marks[rows] -= (tied & (tied.cumsum(dim=1) > last)).to(marks.dtype)
    return marks
