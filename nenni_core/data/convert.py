"""From grey levels to what models take."""

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor


def to_float(images: UInt8[np.ndarray, "*shape"] | UInt8[Tensor, "*shape"]) -> Float32[Tensor, "*shape"]:
    """Grey levels 0..255 as float32 pixels in [0, 1]: v / 255, correctly rounded.

    The result never shares memory with `images`; a tensor keeps its device and memory format.
    """
    tensor = images if isinstance(images, Tensor) else torch.from_numpy(np.array(images))
    assert tensor.dtype == torch.uint8, tensor.dtype  # other types would be scaled silently
    return tensor.to(torch.float32) / 255


def channel_statistics(
    images: UInt8[np.ndarray, "images channels height width"],
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and (population) standard deviation of each channel, in [0, 1] pixel units.

    Summed over integers, so the result does not depend on the order of the images or the machine.
    """
    means, deviations = [], []
    levels = range(256)
    for channel in range(images.shape[1]):
        histogram = np.bincount(images[:, channel].reshape(-1), minlength=256).tolist()
        count = sum(histogram)
        total = sum(n * v for n, v in zip(histogram, levels, strict=True))
        squares = sum(n * v * v for n, v in zip(histogram, levels, strict=True))
        means.append(total / (count * 255))
        deviations.append((count * squares - total**2) ** 0.5 / (count * 255))
    return tuple(means), tuple(deviations)
