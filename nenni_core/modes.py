"""Evaluation mode that is undone module by module, and a noise stream that is put back."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from nenni_core.randomness import load_noise_state, noise_state


@contextmanager
def kept_modes(model: nn.Module) -> Iterator[None]:
    """Afterwards each module is in train or eval mode as before, whatever happened inside."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def kept_streams(model: nn.Module) -> Iterator[None]:
    """Afterwards each random layer has its own noise stream back."""
    streams = [(module, module.noise_stream) for module in model.modules() if hasattr(module, "noise_stream")]
    try:
        yield
    finally:
        for module, stream in streams:
            module.noise_stream = stream


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards each module has its own mode back, a frozen batch norm included."""
    with kept_modes(model):
        model.eval()
        yield


@contextmanager
def observed_only(model: nn.Module) -> Iterator[None]:
    """`eval_mode` for looking at a model: its noise continues afterwards as if nobody had looked."""
    noise = noise_state(model)
    try:
        with eval_mode(model):
            yield
    finally:
        load_noise_state(model, noise)
