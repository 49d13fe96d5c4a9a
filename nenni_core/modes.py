"""Evaluation mode that is undone module by module, and a noise stream that is put back."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from nenni_core.randomness import load_noise_state, noise_state


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards each module has its own mode back, a frozen batch norm included."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def observed_only(model: nn.Module) -> Iterator[None]:
    """`eval_mode` for looking at a model: its noise continues afterwards as if nobody had looked."""
    noise = noise_state(model)
    try:
        with eval_mode(model):
            yield
    finally:
        load_noise_state(model, noise)
