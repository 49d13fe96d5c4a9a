"""Random crop and flip of a whole batch at once, on the device that holds the images.

The images stay uint8 until here; a crop is an index computation, never a loop over samples.
"""

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

Stored = UInt8[Tensor, "images channels height width"]
Batch = Float[Tensor, "batch channels height width"]


def pixels(images: Stored) -> Float[Tensor, "images channels height width"]:
    """Stored images as float32 in [0, 1], channels last in memory."""
    return images.to(torch.float32, memory_format=torch.channels_last).div_(255)


def augment(
    images: Stored, index: Int[Tensor, "batch"], *, padding: int, flip: bool, generator: torch.Generator
) -> Batch:
    """The images at `index`, cropped and flipped at random, as float32 in [0, 1], channels last in memory.

    The crop takes a window of the original size out of the image padded by `padding` pixels of
    reflection on each side (as the code of Rice et al. 2020; `padding` must be below the height and the
    width), each of the (2 padding + 1)^2 windows with equal probability. `generator` lives on the
    device of `images`. All draws are made whatever the outcome, so that the stream advances equally.
    """
    count, (height, width) = len(index), images.shape[-2:]
    device = images.device
    offset = torch.randint(-padding, padding + 1, (2, count, 1), generator=generator, device=device)
    mirrored = torch.randint(0, 2, (count, 1), generator=generator, device=device, dtype=torch.bool)
    rows = _reflect(torch.arange(height, device=device) + offset[0], height)
    columns = torch.arange(width, device=device).expand(count, width)
    if flip:
        columns = torch.where(mirrored, columns.flip(1), columns)
    columns = _reflect(columns + offset[1], width)
    # The slice between the indices puts the channels last: [batch, height, width, channels].
    window = images[index[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return window.permute(0, 3, 1, 2).to(torch.float32).div_(255)


def _reflect(position: Int[Tensor, "batch length"], size: int) -> Int[Tensor, "batch length"]:
    """Positions in [-(size - 1), 2 (size - 1)] mirrored into [0, size - 1] at the border pixels."""
    position = position.abs()
    return (size - 1) - ((size - 1) - position).abs()
