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

_MAGNITUDE_BITS = {
    torch.float64: (torch.int64, 0x7FFFFFFFFFFFFFFF),
    torch.float32: (torch.int32, 0x7FFFFFFF),
    torch.bfloat16: (torch.int16, 0x7FFF),
    torch.float16: (torch.int16, 0x7FFF),
}


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
    scores = z_approx.detach()
    if scores.dtype != torch.float64:
        scores = scores.float()
    if injection.score == "magnitude":
        scores = scores.abs()
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


def select_noise_bits(
    z_approx: Float[Tensor, "batch *position channels"],
    injection: Injection,
    threshold: Float[Tensor, ""] | None = None,
) -> Int[Tensor, "batch *position channels"]:
    """`select_essential` for the CPU, as integers of the scores' width: all bits set means noise.

    PyTorch's operations with boolean masks are not vectorised on the CPU; integer ones are. Floating-point
    magnitudes are ordered like their bit patterns, and the sign bit of a difference is a comparison.
    """
    z_approx = z_approx.detach()
    integer, magnitude = _MAGNITUDE_BITS[z_approx.dtype]
    if injection.selection != "top_k" or injection.score != "magnitude":
        return select_essential(z_approx, injection, threshold).to(integer).sub_(1)
    keys = z_approx.view(integer) & magnitude
    invert = injection.target == "essential"
    kept_of: Callable[[int], int]
    if injection.pattern is not None:
        pattern = Pattern.parse(injection.pattern)
        rows, group, kept_of = keys.reshape(-1, keys.shape[-1]), pattern.group, pattern.kept
    else:
        rows = keys.reshape(len(keys), -1)
        group, kept_of = rows.shape[1], injection.kept

    def noise(part: Tensor) -> Tensor:
        size = part.shape[1]
        kept = kept_of(size)
        return (
            _below_the_largest(part, size - kept).bitwise_not_() if invert else _below_the_largest(part, kept)
        )

    return _by_group(rows, group, noise).view(z_approx.shape)


def largest_per_row(scores: Float[Tensor, "rows length"], keep: int) -> Bool[Tensor, "rows length"]:
    """Exactly the `keep` largest scores of each row; among equal ones the lower index wins."""
    if keep <= 0 or keep >= scores.shape[1]:
        return torch.full_like(scores, keep > 0, dtype=torch.bool)
    smallest_kept = _kth_largest(scores.clone(), keep)
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
    """The `k`-th largest value of each row; `values` may come back reordered."""
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
    """The value at `position` of each row in ascending order; reorders `rows`.

    NumPy's introselect is several times faster than `torch.kthvalue`, and in place it does not hold the
    interpreter lock, so that the cores share the rows.
    """
    workers = min(torch.get_num_threads(), len(rows))
    if workers > 1 and rows.size > 1 << 16:
        list(_pool(workers).map(lambda part: part.partition(position, axis=1), np.array_split(rows, workers)))
    else:
        rows.partition(position, axis=1)
    return torch.from_numpy(rows[:, position, None].copy())


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


def _below_the_largest(keys: Int[Tensor, "rows length"], keep: int) -> Int[Tensor, "rows length"]:
    """-1 for all but the `keep` largest non-negative keys of each row, 0 for those."""
    length = keys.shape[1]
    if keep <= 0 or keep >= length:
        return torch.full_like(keys, 0 if keep > 0 else -1)
    scratch = keys.clone()
    smallest_kept = _kth_largest(scratch, keep)
    bits = torch.sub(keys, smallest_kept, out=scratch).bitwise_right_shift_(torch.iinfo(keys.dtype).bits - 1)
    beyond = bits.sum(dim=1, dtype=torch.int32) + (length - keep)  # ties that are kept but should not be
    rows = beyond.nonzero().flatten()
    if len(rows) > 0:
        tied = keys[rows] == smallest_kept[rows]
        last = tied.sum(dim=1, keepdim=True) - beyond[rows].unsqueeze(1)
        bits[rows] -= (tied & (tied.cumsum(dim=1) > last)).to(bits.dtype)
    return bits
