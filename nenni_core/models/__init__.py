"""Networks by name: `build_model("resnet18", num_classes=10)`.

A new network is one function and one entry of `MODELS`.
"""

from collections.abc import Callable, Sequence

from torch import nn

from nenni_core.errors import InputError, unknown_choice
from nenni_core.models.initialize import initialize_weights
from nenni_core.models.normalize import Normalize
from nenni_core.models.resnet import resnet18, small_resnet, small_resnet_r
from nenni_core.models.wide_resnet import wrn34_10, wrn34_r

__all__ = ["MODELS", "Normalize", "build_model"]

MODELS: dict[str, Callable[..., nn.Module]] = {
    "resnet18": resnet18,
    "wrn34_10": wrn34_10,
    "wrn34_r": wrn34_r,
    "small_resnet": small_resnet,
    "small_resnet_r": small_resnet_r,
}
"""Called with (normalize, in_channels=, num_classes=, image_size=); their weights are still empty."""

SMALLEST_IMAGE, LARGEST_IMAGE = 8, 64


def build_model(
    name: str,
    *,
    num_classes: int,
    in_channels: int = 3,
    image_size: int = 32,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    seed: int = 0,
) -> nn.Module:
    """A fresh network in train mode: pixels in [0, 1], (batch, channels, height, width), to logits.

    Args:
        name: key of `MODELS`.
        num_classes: 2 or more.
        in_channels: 1 or more.
        image_size: height and width, 8 to 64 pixels.
        mean: per channel, subtracted first, in [0, 1] pixel units; None for 0.
        std: per channel, divided by next; None for 1.
        seed: of the weights. Equal seeds give equal bits; the global generator is neither read nor moved.

    Raises:
        InputError: an unknown name or a value outside its range.
    """
    if name not in MODELS:
        raise unknown_choice("model", name, list(MODELS))
    if num_classes < 2:
        raise InputError(f"num_classes is {num_classes}; expected 2 or more")
    if in_channels < 1:
        raise InputError(f"in_channels is {in_channels}; expected 1 or more")
    if not SMALLEST_IMAGE <= image_size <= LARGEST_IMAGE:
        raise InputError(f"image_size is {image_size}; expected {SMALLEST_IMAGE} to {LARGEST_IMAGE} pixels")
    model = MODELS[name](
        Normalize(in_channels, mean, std),
        in_channels=in_channels,
        num_classes=num_classes,
        image_size=image_size,
    )
    initialize_weights(model, seed)
    return model
