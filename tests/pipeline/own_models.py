"""A module as a user may have it: networks that work, and callables that are of no use."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from nenni_core import Injection, inject
from nenni_core.data import load_dataset, to_float


def with_prototypes(layer: nn.Module) -> nn.Module:
    """`layer`, linear in 64 pixels, as a classifier by the nearest mean digit: it needs no training."""
    data = load_dataset("digits")
    pixels, labels = to_float(data.train_images).flatten(1), torch.from_numpy(data.train_labels)
    means = torch.stack([pixels[labels == label].mean(0) for label in range(10)])
    with torch.no_grad():
        layer.weight.copy_(means.view_as(layer.weight))
        layer.bias.copy_(-means.square().sum(1) / 2)
    return layer


def network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), with_prototypes(nn.Linear(64, 10)))


def noisy() -> nn.Module:
    dense = nn.Sequential(with_prototypes(nn.Conv2d(1, 10, 8)), nn.Flatten())
    return inject(dense, Injection(ratio=0.5, randomize="stochastic_rounding"))


ready = network()


def same() -> nn.Module:
    return ready


class Views(nn.Module):
    """Flattens what a convolution made by a view, which channels-last tensors refuse."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.linear = nn.Conv2d(1, 3, 3), nn.Linear(108, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.convolution(x).view(len(x), -1))


class Own(nn.Module):
    """Any function as a network."""

    def __init__(self, compute: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.compute = compute

    def forward(self, x: Tensor) -> Any:
        return self.compute(x)


def dice() -> nn.Module:
    return Own(lambda x: torch.bernoulli(torch.full((len(x), 10), 0.5)))


def no_number() -> nn.Module:
    return Own(lambda x: x.new_full((len(x), 10), float("nan")))


def broken_gradient() -> nn.Module:
    return Own(lambda x: (0 * x.flatten(1)[:, :10]).sqrt() + x.flatten(1)[:, 20:30])


def few() -> nn.Module:
    return Own(lambda x: x.flatten(1)[:, :4])


def pair() -> nn.Module:
    return Own(lambda x: (x, x))


def broken() -> nn.Module:
    return Own(lambda x: x @ x.new_zeros(3, 3))


def nothing() -> None:
    return None


def demanding(size: int) -> None:
    return None


number = 3
