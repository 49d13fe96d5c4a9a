"""Explicit random streams.

Nothing in this package draws from PyTorch's global generator. Every draw comes from a generator that
is derived from a seed and the names of what it is for, so that two uses never share a stream and a
run can be repeated to the bit.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

T = TypeVar("T")


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
    after that draws afresh.

    What is drawn for a whole network (a projection, a set of filters) is drawn on the CPU, so that it is
    equal on every device. Noise as large as activations or weights comes from a generator of its own on
    their device: equal seeds then give equal noise on devices of one kind.
    """

    def __init__(self, seed: int, name: str) -> None:
        self.seed, self.name = seed, name
        self.generator = make_generator(seed, "noise", name)
        self.elsewhere: dict[str, torch.Generator] = {}
        """Generators of devices other than the CPU, by the device's name."""
        self.held = False
        self.member = 0
        """Which pass of an ensemble this is: held draws are kept for each."""
        self._kept: WeakKeyDictionary[nn.Module, dict[tuple[str, int], Any]] = WeakKeyDictionary()

    def generator_on(self, device: torch.device) -> torch.Generator:
        """The stream's generator for noise that is drawn on `device`."""
        if device.type == "cpu":
            return self.generator
        name = str(device)
        if name not in self.elsewhere:
            self.elsewhere[name] = make_generator(self.seed, "noise", self.name, name, device=device)
        return self.elsewhere[name]

    def draw(self, layer: nn.Module, make: Callable[["NoiseStream"], T], what: str = "noise") -> T:
        """What `make` draws for `layer`: a fresh draw, or the one kept since the stream is held.

        A layer that draws several things names each by `what`.
        """
        if not self.held:
            return make(self)
        kept = self._kept.setdefault(layer, {})
        if (what, self.member) not in kept:
            kept[what, self.member] = make(self)
        return kept[what, self.member]

    def normal(self, layer: nn.Module, like: Tensor, shape: Sequence[int]) -> Tensor:
        """Standard normal noise of `shape` for `layer`, of the type and on the device of `like`."""

        def make(stream: "NoiseStream") -> Tensor:
            generator = stream.generator_on(like.device)
            return torch.randn(*shape, generator=generator, device=like.device, dtype=like.dtype)

        return self.draw(layer, make, f"noise {tuple(shape)}")  # a layer may see maps of several sizes

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep one draw per layer for the duration of the context."""
        if self.held:
            yield
            return
        self.held = True
        try:
            yield
        finally:
            self.held = False
            self._kept.clear()


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
    state = {}
    for i, stream in enumerate(noise_streams(model)):
        state[f"noise_{i}"] = stream.generator.get_state()
        state |= {f"noise_{i}/{name}": other.get_state() for name, other in stream.elsewhere.items()}
    return state


def load_noise_state(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Undo `noise_state`: continue the noise where the checkpoint left it."""
    for i, stream in enumerate(noise_streams(model)):
        stream.generator.set_state(state[f"noise_{i}"])
        stream.elsewhere.clear()
        for name, value in state.items():
            if name.startswith(f"noise_{i}/"):
                stream.generator_on(torch.device(name.partition("/")[2])).set_state(value)
