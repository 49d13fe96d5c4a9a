"""What has to be known of a model before it is judged, found out on a few images."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from nenni_core.attacks.untouched import seeded_global_generators
from nenni_core.randomness import noise_streams

TRIED = 2
"""Images that a model is tried on."""


def image_layout(models: Iterable[nn.Module], x: Tensor) -> torch.memory_format:
    """Channels-last, which is faster, unless one of `models` cannot read such images.

    A network that flattens with `view` cannot. Raises what the model raises if it can read neither layout.
    """
    try:
        _pass_each(models, x.contiguous(memory_format=torch.channels_last))
    except RuntimeError:
        _pass_each(models, x.contiguous())
        return torch.contiguous_format
    return torch.channels_last


def is_random(model: nn.Module, x: Tensor) -> bool:
    """Whether the model draws noise: it has a `noise_stream`, or gives `x` other logits the second time."""
    if noise_streams(model):
        return True
    with torch.no_grad(), seeded_global_generators(0, x.device):
        first, second = model(x), model(x)
    return not torch.allclose(first, second, rtol=1e-3, atol=1e-5, equal_nan=True)


def _pass_each(models: Iterable[nn.Module], x: Tensor) -> None:
    with torch.no_grad(), seeded_global_generators(0, x.device):
        for model in models:
            model(x)
