"""A data set as plain arrays, checked once where it enters."""

from dataclasses import dataclass

import numpy as np

from nenni_core.errors import InputError


@dataclass(frozen=True, kw_only=True, eq=False)
class RawDataset:
    """Images and labels of both splits, as the source has them: no shuffling, no normalisation.

    Shapes and types come from files, so they are checked here in every run, not by annotations in tests.

    Raises:
        InputError: arrays of another type or shape, splits that do not fit each other, fewer than two
            class names or repeated ones, a label without a class (the first one is named with its index).
    """

    name: str
    """Key in `DATASETS`."""
    train_images: np.ndarray
    """uint8 (train, channels, height, width): grey levels 0..255."""
    train_labels: np.ndarray
    """int64 (train,): 0 .. number of classes - 1."""
    test_images: np.ndarray
    """uint8 (test, channels, height, width)."""
    test_labels: np.ndarray
    """int64 (test,)."""
    class_names: tuple[str, ...]
    """One per class, in the order of the labels."""
    source: str
    """Where the pixels come from, in words for a report: no local paths."""

    def __post_init__(self) -> None:
        classes = len(self.class_names)
        if classes < 2 or len(set(self.class_names)) != classes or not all(self.class_names):
            raise InputError(
                f"{self.name}: class names are {self.class_names!r}; expected two or more different ones"
            )
        for split, images, labels in (
            ("train", self.train_images, self.train_labels),
            ("test", self.test_images, self.test_labels),
        ):
            _check_split(f"{self.name}: {split}", images, labels, classes)
        if self.train_images.shape[1:] != self.test_images.shape[1:]:
            raise InputError(
                f"{self.name}: test images are {self.test_images.shape[1:]}; expected"
                f" {self.train_images.shape[1:]} as the training images (channels, height, width)"
            )

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        _, channels, height, width = self.train_images.shape
        return channels, height, width


def _check_split(what: str, images: np.ndarray, labels: np.ndarray, classes: int) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or images.size == 0:
        raise InputError(
            f"{what} images are {images.dtype} {images.shape};"
            " expected uint8 (images, channels, height, width), none of them 0"
        )
    if labels.dtype != np.int64 or labels.shape != images.shape[:1]:
        raise InputError(
            f"{what} labels are {labels.dtype} {labels.shape};"
            f" expected int64 {images.shape[:1]}, one for each image"
        )
    check_labels(what, labels, classes)


def check_labels(what: str, labels: np.ndarray, classes: int) -> None:
    """Raise an `InputError` that names the first of `labels` outside 0 .. classes - 1, and its index."""
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if wrong.size:
        raise InputError(
            f"{what} label {labels[wrong[0]]} at index {wrong[0]}; expected 0 to {classes - 1}"
            f" ({wrong.size} of {labels.size} labels are out of range)"
        )
