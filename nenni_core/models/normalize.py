"""The first module of every model: pixels in [0, 1] to standardised ones."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nenni_core.errors import InputError


class Normalize(nn.Module):
    """`(x - mean) / std` per channel.

    It lives inside the model so that attacks work on pixels in [0, 1] and eps means the same for every
    model. `mean` and `std` are buffers: they travel with the weights.

    Args:
        channels: channels of the images.
        mean: per channel, in [0, 1] pixel units; None for 0.
        std: per channel, in [0, 1] pixel units, positive; None for 1.

    Raises:
        InputError: a wrong number of values, a value that is not finite or a std that is not positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, channels: int, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        self.register_buffer("mean", _per_channel("mean", mean, channels, default=0.0))
        self.register_buffer("std", _per_channel("std", std, channels, default=1.0))

    def forward(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        return (x - self.mean) / self.std


def _per_channel(
    name: str, values: Sequence[float] | None, channels: int, default: float
) -> Float[Tensor, "channels 1 1"]:
    numbers = [default] * channels if values is None else [float(value) for value in values]
    if len(numbers) != channels:
        raise InputError(f"{name} has {len(numbers)} values; expected one per channel, that is {channels}")
    for number in numbers:
        if not math.isfinite(number) or (name == "std" and number <= 0):
            wanted = "positive finite numbers" if name == "std" else "finite numbers"
            raise InputError(f"{name} contains {number!r}; expected {wanted}")
    return torch.tensor(numbers).view(-1, 1, 1)
