"""What has to be known of a model before it is judged, found out on a few images."""

from collections.abc import Iterable
from hashlib import sha256

import torch
from torch import Tensor, nn

from nenni_core.attacks.adapter import memory_layout
from nenni_core.attacks.untouched import seeded_global_generators
from nenni_core.errors import InputError
from nenni_core.randomness import make_generator, noise_streams

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
    with torch.no_grad():
        with seeded_global_generators(0, x.device):
            first, second = model(x), model(x)
        with seeded_global_generators(0, x.device):
            again = model(x)
    if not _same(first, again):
        raise InputError(
            "the model gives the same images other logits each time, whatever the seed: expected noise from "
            "PyTorch's global generators or from a `noise_stream` (nenni_core.randomness)"
        )
    return not _same(first, second)


def behaviour_digest(model: nn.Module, x: Tensor) -> str:
    """A SHA-256 that other weights, other settings and mostly other code of `model` change.

    It is that of the logits, rounded, of `x` (float images in [0, 1]) and of as many images of noise.
    """
    noise = torch.rand(x.shape, generator=make_generator(0, "probe")).to(x)
    with torch.no_grad(), seeded_global_generators(0, x.device):
        logits = torch.cat([model(x), model(noise.contiguous(memory_format=memory_layout(x)))])
    return sha256((1000 * logits.double()).round().cpu().numpy().tobytes()).hexdigest()


def _same(first: Tensor, second: Tensor) -> bool:
    return torch.allclose(first, second, rtol=1e-3, atol=1e-5, equal_nan=True)


def _pass_each(models: Iterable[nn.Module], x: Tensor) -> None:
    with torch.no_grad(), seeded_global_generators(0, x.device):
        for model in models:
            model(x)
