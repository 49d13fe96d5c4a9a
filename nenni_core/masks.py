"""Masks of the essential neurons on real inputs, for the simulator and for measured costs."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from nenni_core.errors import InputError
from nenni_core.inject import injected_layers
from nenni_core.layers import MaskObserver
from nenni_core.modes import observed_only


@contextmanager
def _observed(model: nn.Module, observe: dict[str, MaskObserver]) -> Iterator[None]:
    layers = injected_layers(model)
    for name, layer in layers.items():
        layer.mask_observer = observe[name]
    try:
        with observed_only(model):
            yield
    finally:
        for layer in layers.values():
            layer.mask_observer = None


def _require_injected(model: nn.Module) -> list[str]:
    names = list(injected_layers(model))
    if not names:
        raise InputError(f"{type(model).__name__} has no injected layers and so no masks; call inject first")
    return names


@torch.no_grad()
def masks(model: nn.Module, x: Float[Tensor, "batch *input"]) -> dict[str, Bool[Tensor, "batch *output"]]:
    """The mask of every injected layer for the images `x` in [0, 1]; True where a neuron is essential.

    The model is looked at in eval mode and left as it was, its noise stream included.

    Keys are layer names in execution order; a convolution's mask is (batch, channels, height, width).
    A layer that runs several times in one pass shows its last mask.

    Raises:
        InputError: the model has no injected layers.
    """
    seen: dict[str, Tensor] = {}

    def observer(name: str) -> MaskObserver:
        return lambda mask: seen.__setitem__(name, mask)

    with _observed(model, {name: observer(name) for name in _require_injected(model)}):
        model(x)
    return seen


@torch.no_grad()
def mask_densities(model: nn.Module, data: Iterable[Float[Tensor, "_ ..."]]) -> dict[str, float]:
    """Measured share of essential outputs of each injected layer over all images of `data`, in eval mode.

    Raises:
        InputError: the model has no injected layers, or `data` is empty.
    """
    names = _require_injected(model)
    kept: dict[str, Tensor] = {}
    seen = dict.fromkeys(names, 0)

    def observer(name: str) -> MaskObserver:
        def observe(mask: Tensor) -> None:
            count = mask.sum()
            kept[name] = kept[name] + count if name in kept else count
            seen[name] += mask.numel()

        return observe

    with _observed(model, {name: observer(name) for name in names}):
        for x in data:
            model(x)
    if not kept:
        raise InputError("no data to measure mask densities on: expected at least one batch of images")
    return {name: int(kept[name]) / seen[name] for name in names if name in kept}


def pack_mask(mask: Bool[Tensor, "batch *output"]) -> UInt8[np.ndarray, "positions bytes"]:
    """A layer's mask as the simulator reads it: one row per output position, eight channels a byte.

    Positions are batch x height x width in row-major order; within a byte the first channel is the
    highest bit and the last byte is padded with zeros (`numpy.packbits`).
    """
    channels_last = mask.movedim(1, -1)
    return np.packbits(channels_last.reshape(-1, channels_last.shape[-1]).cpu().numpy(), axis=1)
