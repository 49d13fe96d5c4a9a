"""Explicit random streams.

Nothing in this package draws from PyTorch's global generator. Every draw comes from a generator that
is derived from a seed and the names of what it is for, so that two uses never share a stream and a
run can be repeated to the bit.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def derive_seed(seed: int, *names: str) -> int:
    """A 63-bit seed for the stream called `names` under `seed`.

    Different names give independent seeds (SHA-256), equal names the same one on every machine.
    """
    text = "\0".join([str(seed), *names])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def make_generator(seed: int, *names: str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator for the stream called `names` under `seed`, on `device`."""
    return torch.Generator(device=device).manual_seed(derive_seed(seed, *names))


class NoiseStream:
    """Where the random layers of one model draw their noise from.

    The layers of a model share one stream. While the stream is `held`, each layer keeps the draw that
    it made first, so that a whole attack sees one realisation of the noise; the next forward pass
    after that draws afresh. Draws are made on the CPU so that they are equal on every device.
    """

    def __init__(self, seed: int, name: str) -> None:
        self.generator = make_generator(seed, "noise", name)
        self.held = False
        self.epoch = 0  # a draw made in an earlier epoch is out of date

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep one draw per layer for the duration of the context."""
        if self.held:
            yield
            return
        self.held, self.epoch = True, self.epoch + 1
        try:
            yield
        finally:
            self.held, self.epoch = False, self.epoch + 1


def noise_streams(model: nn.Module) -> list[NoiseStream]:
    """The distinct noise streams of a model, in the order of its modules; empty if it is deterministic."""
    found: dict[int, NoiseStream] = {}
    for module in model.modules():
        stream = getattr(module, "noise_stream", None)
        if isinstance(stream, NoiseStream):
            found.setdefault(id(stream), stream)
    return list(found.values())


def set_noise(model: nn.Module, name: str, seed: int) -> NoiseStream:
    """Give all random layers of `model` one fresh stream: "training", "attack", "inference" or the like."""
    stream = NoiseStream(seed, name)
    for module in model.modules():
        if hasattr(module, "noise_stream"):
            module.noise_stream = stream  # type: ignore[assignment]
    return stream


@contextmanager
def held_noise(model: nn.Module) -> Iterator[None]:
    """One noise draw for the duration of the context; does nothing for a deterministic model."""
    from contextlib import ExitStack

    with ExitStack() as stack:
        for stream in noise_streams(model):
            stack.enter_context(stream.hold())
        yield


def noise_state(model: nn.Module) -> dict[str, Tensor]:
    """States of the model's noise generators, to go into a checkpoint."""
    return {f"noise_{i}": stream.generator.get_state() for i, stream in enumerate(noise_streams(model))}


def load_noise_state(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Undo `noise_state`: continue the noise where the checkpoint left it."""
    for i, stream in enumerate(noise_streams(model)):
        stream.generator.set_state(state[f"noise_{i}"])
