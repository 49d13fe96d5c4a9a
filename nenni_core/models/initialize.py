"""Layers whose weights are left empty, and the one place that fills them from an explicit generator.

PyTorch's layers draw their first weights from the global generator. The layers made here skip that, so
that building a model neither depends on the global generator nor moves it.
"""

import torch
from torch import nn
from torch.nn.utils import skip_init

from nenni_core.randomness import make_generator


def convolution(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> nn.Conv2d:
    """A convolution without bias (batch norm has one) that keeps the size at stride 1; weights empty."""
    return skip_init(
        nn.Conv2d,
        in_channels,
        out_channels,
        kernel_size,
        stride=stride,
        padding=kernel_size // 2,
        bias=False,
    )


def linear(in_features: int, out_features: int) -> nn.Linear:
    """A fully connected layer; weights empty."""
    return skip_init(nn.Linear, in_features, out_features)


def initialize_weights(model: nn.Module, seed: int) -> None:
    """Fill every convolution and linear layer of `model` in place, He et al. 2015.

    Convolutions are normal with variance 2 / fan_out (each is followed by a ReLU), linear layers normal
    with variance 1 / fan_in (the classifier has no ReLU), biases 0. Each layer has its own stream,
    derived from `seed` and its name: equal seeds give equal bits.
    """
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, nn.Conv2d):
                generator = make_generator(seed, "weights", name)
                nn.init.kaiming_normal_(
                    module.weight, mode="fan_out", nonlinearity="relu", generator=generator
                )
            elif isinstance(module, nn.Linear):
                generator = make_generator(seed, "weights", name)
                nn.init.kaiming_normal_(
                    module.weight, mode="fan_in", nonlinearity="linear", generator=generator
                )
                nn.init.zeros_(module.bias)
