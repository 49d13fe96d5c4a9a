"""Stratified choices of images: each class is represented as in the whole, the same ones for a seed."""

import numpy as np
from jaxtyping import Int64

from nenni_core.data.draws import permutation
from nenni_core.errors import InputError


def split_validation(
    labels: Int64[np.ndarray, " images"], count: int, seed: int
) -> tuple[Int64[np.ndarray, " train"], Int64[np.ndarray, " count"]]:
    """Set `count` images of the training data aside for validation.

    Returns:
        Indices of the images left for training and of those set aside: disjoint, together all of them,
        each ascending. A class has its share of `count`, rounded up or down.

    Raises:
        InputError: `count` is negative or leaves no image for training.
    """
    if not 0 <= count < len(labels):
        raise InputError(
            f"validation images: {count}; expected 0 to {len(labels) - 1},"
            f" at least one of {len(labels)} stays for training"
        )
    chosen = _stratified(labels, count, seed, "split_validation")
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def subset(labels: Int64[np.ndarray, " images"], count: int, seed: int) -> Int64[np.ndarray, " count"]:
    """Indices of `count` images, ascending; a class has its share of `count`, rounded up or down.

    Raises:
        InputError: `count` is not positive or more than there are.
    """
    if not 1 <= count <= len(labels):
        raise InputError(f"images to choose: {count}; expected 1 to {len(labels)}, as many as there are")
    return np.flatnonzero(_stratified(labels, count, seed, "subset"))


def _stratified(labels: np.ndarray, count: int, seed: int, name: str) -> np.ndarray:
    """A mask with `count` True, by largest remainders per class; ties go to the lower class."""
    classes, sizes = np.unique(labels, return_counts=True)
    shares, remainders = np.divmod(sizes * count, len(labels))
    extra = np.argsort(-remainders, kind="stable")[: count - shares.sum()]
    shares[extra] += 1
    chosen = np.zeros(len(labels), dtype=bool)
    order = permutation(seed, "data", name, count=len(labels))
    for label, share in zip(classes, shares, strict=True):
        chosen[order[labels[order] == label][:share]] = True
    return chosen
