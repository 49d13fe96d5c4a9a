"""One forward pass that is watched: what runs, in which order, on maps of which shape."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from nenni_core.inject import dense_mode
from nenni_core.modes import observed_only

Hook = Callable[[nn.Module, tuple[Tensor, ...], Tensor], Any]


def trace(
    model: nn.Module, input_shape: tuple[int, int, int], hooks: Iterable[tuple[nn.Module, Hook]]
) -> None:
    """Show `model` one black image of `input_shape`, without its noise; each hook sees its module run.

    The model is looked at in eval mode and left as it was.
    """
    handles = [module.register_forward_hook(hook) for module, hook in hooks]
    reference = next(model.parameters(), torch.zeros(()))
    try:
        with torch.no_grad(), observed_only(model), dense_mode(model):
            model(torch.zeros(1, *input_shape, device=reference.device, dtype=reference.dtype))
    finally:
        for handle in handles:
            handle.remove()
