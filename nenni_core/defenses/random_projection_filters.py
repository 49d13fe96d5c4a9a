"""Random filters, drawn anew in each forward pass, beside the learned ones of the first convolution."""

from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nenni_core.bitops import GAUSSIAN_SAMPLE, MULTIPLICATION
from nenni_core.defenses.adversarial_training import ModifiedNetwork
from nenni_core.defenses.defense import groups_by_decay
from nenni_core.defenses.wrapping import replace_modules, run_with_weight
from nenni_core.errors import InputError, require
from nenni_core.randomness import NoiseStream, set_noise

SMALLEST_DEVIATION = 1e-5
"""Added to the standard deviation of a learned filter before its weights are divided by it."""


class RandomFilters(nn.Module):
    """A convolution with `count` filters of independent N(0, 1 / r^2) weights, r being the kernel's width.

    Each forward pass draws them anew, for the whole batch, in both modes; there is no bias and nothing to
    train.

    Args:
        count: output channels.
        like: the convolution whose inputs, kernel, stride, padding and dilation it has.
    """

    noise_stream: NoiseStream

    def __init__(self, count: int, like: nn.Conv2d) -> None:
        super().__init__()
        self.shape = (count, *like.weight.shape[1:])
        self.stride, self.padding, self.dilation = like.stride, like.padding, like.dilation
        self.noise_stream = NoiseStream(0, "inference")

    def forward(
        self, x: Float[Tensor, "batch inputs height width"]
    ) -> Float[Tensor, "batch count out_height out_width"]:
        def draw(stream: NoiseStream) -> Tensor:
            filters = torch.randn(self.shape, generator=stream.generator) / self.shape[-1]
            return filters.to(x.device, non_blocking=True)  # so that the host does not wait for it

        filters = self.noise_stream.draw(self, draw).to(x.dtype)
        return F.conv2d(x, filters, None, self.stride, self.padding, self.dilation)

    def own_macs(self, input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> int:
        """As of any convolution."""
        return prod(output_shape) * prod(self.shape[1:])

    def own_bitops(self, input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> float:
        """Per weight: a normal number and its product with 1 / r."""
        return prod(self.shape) * (GAUSSIAN_SAMPLE + MULTIPLICATION)

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        return f"{self.shape}, stride={self.stride}, padding={self.padding}, dilation={self.dilation}"


class PartlyRandomConvolution(nn.Module):
    """The first filters of a convolution, standardised, and `RandomFilters` in place of its last ones.

    A learned filter w is used as w / (std(w) + 1e-5) / r, r being the kernel's width, so that it is as large
    as the random ones; its mean stays and the deviation takes part in the gradient. (At inference that is a
    constant, and so counts no bit operations.)

    Args:
        dense: a convolution of one group that pads with zeros; its first filters are where the learned ones
            start.
        random: how many of its filters are random.
    """

    def __init__(self, dense: nn.Conv2d, random: int) -> None:
        super().__init__()
        learned = dense.out_channels - random
        self.layer = nn.utils.skip_init(
            nn.Conv2d,
            dense.in_channels,
            learned,
            dense.kernel_size,
            stride=dense.stride,
            padding=dense.padding,
            dilation=dense.dilation,
            bias=dense.bias is not None,
            device=dense.weight.device,
            dtype=dense.weight.dtype,
        )
        for name, parameter in self.layer.named_parameters():
            former = dense.get_parameter(name)
            parameter.data = former.detach()[:learned].clone()
            parameter.requires_grad_(former.requires_grad)
        self.random = RandomFilters(random, dense)
        self.train(dense.training)

    def standardised_weight(self) -> Float[Tensor, "learned inputs height width"]:
        """The learned filters as the forward pass uses them."""
        weight: Tensor = self.layer.weight
        deviation = weight.std(dim=(1, 2, 3), keepdim=True)
        return weight / (deviation + SMALLEST_DEVIATION) / weight.shape[-1]

    def forward(
        self, x: Float[Tensor, "batch inputs height width"]
    ) -> Float[Tensor, "batch outputs out_height out_width"]:
        learned = run_with_weight(self.layer, self.standardised_weight(), x)
        return torch.cat([learned, self.random(x)], dim=1)


@dataclass(frozen=True, kw_only=True)
class RandomProjectionFilters(ModifiedNetwork):
    """Most filters of the first convolution are random and drawn anew in each forward pass.

    Dong & Xu 2023, "Adversarial robustness via random projection filters", as their code
    (UniSerj/Random-Projection-Filters): N(0, 1 / r^2) weights after learned filters that are standardised to
    the same size and have a weight decay of their own. One draw serves the whole batch.

    Departures: the schedule, the first weights and the choice of the best epoch (on held-out training images,
    theirs on test images) are the recipe's. The first convolution is the first in the order of the model's
    modules.
    """

    title: ClassVar[str] = "Random Projection Filters (Dong & Xu, 2023)"
    is_random: ClassVar[bool] = True

    random_share: float = 0.75
    """Share of the filters that are random, above 0 and below 1; rounded (48 of 64), one stays learned."""
    learned_weight_decay: float = 1e-2
    """L2 penalty on the learned filters of that convolution, at least 0; the rest has the recipe's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require("random_share", self.random_share, 0 < self.random_share < 1, "above 0 and below 1")
        decay = self.learned_weight_decay
        require("learned_weight_decay", decay, 0 <= decay < float("inf"), "at least 0")

    def wrap(self, model: nn.Module, seed: int, image_shape: tuple[int, int, int]) -> nn.Module:
        """The first convolution becomes a `PartlyRandomConvolution`.

        Raises `InputError` if there is none, or none that can: it must be a plain one, of one group, padded
        with zeros, with two filters or more of two weights or more.
        """
        convolutions = [
            (name, module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d)
        ]
        if not convolutions:
            raise InputError(f"{type(model).__name__} has no nn.Conv2d layer that could have random filters")
        name, first = convolutions[0]
        reason = _why_not(first)
        if reason:
            raise InputError(
                f"layer {name!r} ({type(first).__name__}) cannot have random filters: {reason}; expected a "
                "plain convolution of one group, padded with zeros, with two filters of two weights or more"
            )
        count = round(self.random_share * first.out_channels)
        random = min(max(count, 1), first.out_channels - 1)
        replacement = PartlyRandomConvolution(first, random)
        model = replace_modules(model, lambda name, module: replacement if module is first else None)
        set_noise(model, "inference", seed)
        return model

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """The recipe's weight decay for all but the learned filters beside random ones."""
        layers = [m.layer for m in model.modules() if isinstance(m, PartlyRandomConvolution)]
        special = [layer.weight for layer in layers]
        return groups_by_decay(model, special, self.learned_weight_decay)


def _why_not(layer: nn.Conv2d) -> str | None:
    """Why a convolution cannot have random filters, or None."""
    if type(layer) is not nn.Conv2d:
        return "it is not a plain nn.Conv2d"
    if layer.groups != 1:
        return f"it has {layer.groups} groups"
    if layer.padding_mode != "zeros":
        return f"its padding is {layer.padding_mode!r}"
    if layer.out_channels < 2:
        return "it has one filter"
    if layer.weight[0].numel() < 2:
        return "its filters have one weight, and so no deviation"
    return None
