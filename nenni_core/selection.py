"""Which neurons are essential (paper section 3.2, and 3.5 for N:M patterns).

All masks are True where a neuron is essential, that is, kept precise. Equal scores are told apart by
their index: the lower one wins. Indices run over channels first, then columns, then rows: the order in
which hardware that streams positions sees them, and the memory order of channels-last tensors.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nenni_core.injection import Injection, Pattern

PAIRWISE_GROUP_LIMIT = 16
"""Groups up to this size are ranked by comparing all pairs, which needs M(M-1)/2 vector operations."""

_CHUNKS = 8  # more than the usual number of cores, so that a slow thread does not hold up the rest


def largest_per_row(scores: Float[Tensor, "rows length"], keep: int) -> Bool[Tensor, "rows length"]:
    """Exactly the `keep` largest scores of each row; among equal ones the lower index wins."""
    length = scores.shape[1]
    if keep <= 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    if keep >= length:
        return torch.ones_like(scores, dtype=torch.bool)
    smallest_kept = _kth_largest(scores, keep)
    if scores.device.type == "cpu":
        mask = scores >= smallest_kept
        surplus = mask.sum(dim=1) - keep
        rows = surplus.nonzero().flatten()
        if len(rows) > 0:
            mask[rows] = _resolve_ties(scores[rows], smallest_kept[rows], keep)
        return mask
    return _resolve_ties(
        scores, smallest_kept, keep
    )  # looking whether there are ties would wait for the device


def largest_per_group(
    scores: Float[Tensor, "rows channels"], group: int, keep: Callable[[int], int]
) -> Bool[Tensor, "rows channels"]:
    """Of every `group` consecutive channels exactly the `keep(group)` largest; the lower index wins ties.

    A last, shorter group of s channels keeps `keep(s)`.
    """
    rows, channels = scores.shape
    whole = channels - channels % group
    parts = []
    if whole:
        parts.append(_largest_of_few(scores[:, :whole].reshape(-1, group), keep(group)).reshape(rows, whole))
    if whole < channels:
        parts.append(_largest_of_few(scores[:, whole:], keep(channels - whole)))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def select_essential(
    z_approx: Float[Tensor, "batch *position channels"],
    injection: Injection,
    threshold: Float[Tensor, ""] | None = None,
) -> Bool[Tensor, "batch *position channels"]:
    """The mask of a layer, channels last: True where the precise output is kept.

    Without a pattern, each sample keeps exactly `injection.kept(n * H * W)` outputs. With
    `target="essential"` as many outputs are kept, but the smallest ones. `threshold` is read only with
    `selection="threshold"`.
    """
    with torch.no_grad():
        scores = z_approx.detach()
        if injection.score == "magnitude":
            scores = scores.abs()
        if scores.dtype != torch.float32:
            scores = scores.float()
        invert = injection.target == "essential"
        if injection.selection == "threshold":
            assert threshold is not None, "the layer has checked that it is calibrated"
            mask = scores <= threshold if invert else scores > threshold
        elif injection.pattern is not None:
            pattern = Pattern.parse(injection.pattern)
            by_position = scores.reshape(-1, scores.shape[-1])
            if invert:
                mask = ~largest_per_group(by_position, pattern.group, lambda size: size - pattern.kept(size))
            else:
                mask = largest_per_group(by_position, pattern.group, pattern.kept)
        else:
            by_sample = scores.reshape(scores.shape[0], -1)
            outputs = by_sample.shape[1]
            kept = injection.kept(outputs)
            mask = ~largest_per_row(by_sample, outputs - kept) if invert else largest_per_row(by_sample, kept)
        return mask.reshape(scores.shape)


def _kth_largest(scores: Float[Tensor, "rows length"], k: int) -> Float[Tensor, "rows 1"]:
    """The k-th largest score of each row.

    On the CPU by NumPy's introselect, which is several times faster than `torch.kthvalue` and does not
    hold the interpreter lock, so that chunks of rows run side by side.
    """
    length = scores.shape[1]
    if scores.device.type != "cpu":
        return scores.kthvalue(length - k + 1, dim=1, keepdim=True).values
    values = scores.numpy()

    def chunk_kth(rows: np.ndarray) -> np.ndarray:
        return np.partition(rows, length - k, axis=1)[:, length - k]

    workers = min(torch.get_num_threads(), len(values))
    if workers > 1 and values.size > 1 << 16:
        kth = np.concatenate(
            list(_pool(workers).map(chunk_kth, np.array_split(values, min(_CHUNKS, len(values)))))
        )
    else:
        kth = chunk_kth(values)
    return torch.from_numpy(kth).unsqueeze(1)


_pools: dict[int, ThreadPoolExecutor] = {}


def _pool(workers: int) -> ThreadPoolExecutor:
    if workers not in _pools:
        _pools[workers] = ThreadPoolExecutor(workers, thread_name_prefix="nenni-selection")
    return _pools[workers]


def _resolve_ties(
    scores: Float[Tensor, "rows length"], smallest_kept: Float[Tensor, "rows 1"], keep: int
) -> Bool[Tensor, "rows length"]:
    above = scores > smallest_kept
    tied = scores == smallest_kept
    wanted = keep - above.sum(dim=1, keepdim=True)
    return above | (tied & (tied.cumsum(dim=1) <= wanted))


def _largest_of_few(groups: Float[Tensor, "groups size"], keep: int) -> Bool[Tensor, "groups size"]:
    size = groups.shape[1]
    if keep <= 0 or keep >= size or size > PAIRWISE_GROUP_LIMIT:
        return largest_per_row(groups, keep)
    columns = groups.t().contiguous()
    # rank[i] counts the members before i in descending order; an earlier member wins a tie.
    rank = [
        torch.full(columns.shape[1:], size - 1 - i, dtype=torch.int8, device=groups.device)
        for i in range(size)
    ]
    for later in range(size):
        for earlier in range(later):
            wins = (columns[earlier] >= columns[later]).view(torch.int8)
            rank[later] += wins
            rank[earlier] -= wins
    return (torch.stack(rank) < keep).t().contiguous()
