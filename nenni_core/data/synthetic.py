"""Generated images for tests and dry runs: a class is a coarse pattern, an image that pattern in noise."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, UInt8

from nenni_core.data.draws import permutation, uniform
from nenni_core.data.raw import RawDataset
from nenni_core.errors import InputError

PATTERN_CELLS = 4
"""A pattern is a grid of this many cells a side, each of one grey level per channel."""


@dataclass(frozen=True, kw_only=True)
class SyntheticSpec:
    """What to generate.

    Raises:
        InputError: fewer than two classes, fewer images than classes, an empty image, or a contrast or
            noise outside its range.
    """

    classes: int = 10
    channels: int = 3
    image_size: int = 16
    train_images: int = 512
    test_images: int = 256
    contrast: float = 0.25
    """Patterns stay within this distance of mid grey, in [0, 1] pixel units; 0 to 0.5."""
    noise: float = 0.25
    """Each pixel gets a uniform draw from [-noise, noise]; 0 to 1."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, least in (
            ("classes", self.classes, 2),
            ("channels", self.channels, 1),
            ("image_size", self.image_size, 1),
            ("train_images", self.train_images, self.classes),
            ("test_images", self.test_images, self.classes),
        ):
            if value < least:
                raise InputError(f"synthetic data: {name} is {value}; expected {least} or more")
        for name, level, most in (("contrast", self.contrast, 0.5), ("noise", self.noise, 1.0)):
            if not 0 <= level <= most:
                raise InputError(f"synthetic data: {name} is {level}; expected 0 to {most}")


DEFAULT = SyntheticSpec()


def generate(spec: SyntheticSpec = DEFAULT) -> RawDataset:
    """The data set of `spec`: the same bits on every machine.

    Every class has the same number of images, give or take one, in a random order.
    """
    shape = (spec.classes, spec.channels, PATTERN_CELLS, PATTERN_CELLS)
    cells = 2 * uniform(spec.seed, "synthetic", "patterns", count=int(np.prod(shape))).reshape(shape) - 1
    # Cells are spread over the image by their index: sizes need not be multiples of PATTERN_CELLS.
    spread = np.arange(spec.image_size) * PATTERN_CELLS // spec.image_size
    patterns = 0.5 + spec.contrast * cells[:, :, spread][:, :, :, spread]
    train_images, train_labels = _split(spec, patterns, "train", spec.train_images)
    test_images, test_labels = _split(spec, patterns, "test", spec.test_images)
    return RawDataset(
        name="synthetic",
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        class_names=tuple(f"pattern {i}" for i in range(spec.classes)),
        source=f"generated: {spec.classes} coarse patterns in uniform noise, seed {spec.seed}",
    )


def _split(
    spec: SyntheticSpec, patterns: np.ndarray, name: str, count: int
) -> tuple[UInt8[np.ndarray, "images channels height width"], Int64[np.ndarray, " images"]]:
    labels = permutation(spec.seed, "synthetic", name, "labels", count=count) % spec.classes
    shape = (count, *patterns.shape[1:])
    noise = 2 * uniform(spec.seed, "synthetic", name, "noise", count=int(np.prod(shape))).reshape(shape) - 1
    pixels = np.clip(patterns[labels] + spec.noise * noise, 0, 1)
    return np.rint(pixels * 255).astype(np.uint8), labels
