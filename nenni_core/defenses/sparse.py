"""Sparse networks: a trained network of whose convolution weights only the largest take part."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from nenni_core.defenses.defense import Batch, Labels, LossAndLogits, StepContext
from nenni_core.defenses.fine_tuned import FineTuned
from nenni_core.defenses.wrapping import replace_modules, run_with_weight
from nenni_core.errors import InputError, require, unknown_choice
from nenni_core.randomness import make_generator
from nenni_core.selection import largest_per_row

METHODS = ("magnitude", "surgery")

PRUNE, SPLICE = 0.9, 1.1
"""Of the threshold t: a weight is cut off at 0.9 t or below, and taken back above 1.1 t."""

DECAY, POWER = 1e-4, 1
"""Of surgery: in iteration i the masks are updated with probability (1 + DECAY i)^-POWER."""


class Pruned(nn.Module):
    """A layer that runs with `weight * mask`.

    The gradient reaches the weights that take part or, if `straight_through`, all of them as if there were no
    mask, so that a weight which has been cut off can grow back. `seed` is that of the surgery.
    """

    mask: Tensor
    iteration: Tensor

    def __init__(self, layer: nn.Module, *, straight_through: bool, seed: int) -> None:
        super().__init__()
        self.layer, self.straight_through, self.seed = layer, straight_through, seed
        device = self.weight.device
        self.register_buffer("mask", torch.ones_like(self.weight, dtype=torch.bool))
        # Steps of surgery so far; on the device, so that no step waits for it.
        self.register_buffer("iteration", torch.zeros((), dtype=torch.int64, device=device))

    @property
    def weight(self) -> Tensor:
        """The layer's own weights, those that are cut off included."""
        weight = self.layer.weight
        assert isinstance(weight, Tensor)
        return weight

    def masked_weight(self) -> Tensor:
        """The weights that the layer runs with, in the memory format of its own."""
        if self.straight_through:
            return _StraightThrough.apply(self.weight, self.mask)
        return self.weight.clone().mul_(self.mask)

    def forward(self, x: Tensor) -> Tensor:
        """The output of the layer with the masked weights."""
        return run_with_weight(self.layer, self.masked_weight(), x)

    def weight_density(self) -> float:
        """The share of the weights that take part."""
        return int(self.mask.sum()) / self.mask.numel()

    @torch.no_grad()
    def zero_pruned(self) -> None:
        """Set the weights that take no part to zero, which changes no output."""
        self.weight.masked_fill_(~self.mask, 0.0)


class _StraightThrough(torch.autograd.Function):
    """`weight * mask` with the gradient of `weight`."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, mask: Tensor) -> Tensor:
        return weight.clone().mul_(mask)  # a clone has the strides of its origin, which bits may depend on

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


@dataclass(frozen=True, kw_only=True)
class Sparse(FineTuned):
    """A share of the convolution weights is zero (Guo, Zhang, Zhang and Chen 2018, arXiv 1810.09619).

    "magnitude" cuts off the smallest weights of the trained network and fine-tunes the others. "surgery" is
    dynamic network surgery (Guo, Yao and Chen 2016, arXiv 1608.04493): while it lasts, the masks are updated
    before the forward pass of a step, with probability (1 + 0.0001 i)^-1 in iteration i; weights of magnitude
    0.9 t or less are cut off, those above 1.1 t are taken back, and the gradient of the masked weights is
    applied to all weights. Then the masks stay as they are, and the training goes on.

    Departures: the paper trains on clean images, here `base` says on what. One threshold t serves all layers
    instead of one per layer (mean plus a multiple of the standard deviation of the magnitudes, taken once):
    each update chooses it such that exactly the wanted number of weights is cut off, so that every epoch's
    network has the wanted sparsity. (A weight's score is its magnitude, times 0.9 / 1.1 if it is cut off now;
    0.9 t is the largest score cut off. Equal scores are told apart by their index.) One draw decides for all
    layers whether a step updates, not one for each. Only convolutions are pruned, shortcuts and the first one
    included; biases, batch normalisation and linear layers stay dense. Once the masks are fixed, the weights
    that take no part are set to zero, which changes no output.
    """

    title: ClassVar[str] = "Sparse network (Guo et al., 2018)"

    epochs: int = 5
    """Epochs of fine-tuning, at least 0; surgery needs at least 1."""
    sparsity: float = 0.5
    """Share of all convolution weights together that are zero, in [0, 1); their number is rounded."""
    method: str = "magnitude"
    """Which weights are zero: "magnitude" or "surgery"."""
    surgery_share: float = 0.5
    """Share of the fine-tuning in which surgery changes the masks, in [0, 1]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require("sparsity", self.sparsity, 0 <= self.sparsity < 1, "in [0, 1)")
        require("surgery_share", self.surgery_share, 0 <= self.surgery_share <= 1, "in [0, 1]")
        if self.method not in METHODS:
            raise unknown_choice("method", self.method, list(METHODS))
        if self.method == "surgery":
            require("epochs", self.epochs, self.epochs >= 1, 'at least 1 for method "surgery"')

    @property
    def unread(self) -> frozenset[str]:
        """Magnitude pruning has no surgery."""
        return super().unread | ({"surgery_share"} if self.method == "magnitude" else frozenset())

    def wrap(self, model: nn.Module, seed: int, image_shape: tuple[int, int, int]) -> nn.Module:
        """`model` with each convolution in a `Pruned`, the smallest weights cut off in either method."""
        if pruned_layers(model):
            raise InputError(f"{type(model).__name__} is pruned already; expected a dense network")
        surgery = self.method == "surgery"

        def prune(_: str, module: nn.Module) -> nn.Module | None:
            if not isinstance(module, nn.Conv2d):
                return None
            return Pruned(module, straight_through=surgery, seed=seed)

        model = replace_modules(model, prune)
        layers = pruned_layers(model)
        if not layers:
            raise InputError(f"{type(model).__name__} has no nn.Conv2d layer to prune")
        for layer, mask in zip(layers, chosen_masks(layers, self.sparsity), strict=True):
            layer.mask.copy_(mask)
            if not surgery:
                layer.zero_pruned()
        return model

    def step(self, model: nn.Module, x: Batch, y: Labels, context: StepContext) -> LossAndLogits:
        """The loss of a batch, after the step's surgery if there is any."""
        if self._operates(context):
            operate(pruned_layers(model), self.sparsity, context.position)
        return super().step(model, x, y, context)

    def maintain(self, model: nn.Module, context: StepContext) -> None:
        """Once the masks are fixed, the weights that take no part are zero after each step."""
        if not self._operates(context):
            for layer in pruned_layers(model):  # their gradient, or their momentum, moves them still
                context.after_step.callback(layer.zero_pruned)

    def _operates(self, context: StepContext) -> bool:
        """Whether this is a step of surgery."""
        return self.method == "surgery" and context.position < self.surgery_share * context.epochs


def pruned_layers(model: nn.Module) -> list[Pruned]:
    """The pruned layers of `model` in the order of its modules."""
    return [module for module in model.modules() if isinstance(module, Pruned)]


@torch.no_grad()
def chosen_masks(layers: Sequence[Pruned], sparsity: float) -> list[Tensor]:
    """Which weights take part next: all but exactly `round(sparsity * total)`, those of the lowest scores.

    The score is |w| for a weight that takes part now and |w| * 0.9 / 1.1 for one that does not.
    """
    scores = []
    for layer in layers:
        magnitude = layer.weight.float().abs()
        scores.append(torch.where(layer.mask, magnitude, magnitude * (PRUNE / SPLICE)).flatten())
    joint = torch.cat(scores)
    keep = len(joint) - round(sparsity * len(joint))
    kept = largest_per_row(joint.unsqueeze(0), keep)[0] if joint.is_cpu else largest_by_sorting(joint, keep)
    parts = kept.split([len(part) for part in scores])
    return [part.view(layer.mask.shape) for part, layer in zip(parts, layers, strict=True)]


def largest_by_sorting(scores: Float[Tensor, "weights"], keep: int) -> Bool[Tensor, "weights"]:
    """`largest_per_row` of one long row: an accelerator would search that with a single block of threads."""
    order = scores.argsort(descending=True, stable=True)
    return torch.zeros_like(scores, dtype=torch.bool).index_fill_(0, order[:keep], True)


@torch.no_grad()
def operate(layers: Sequence[Pruned], sparsity: float, position: float) -> None:
    """One step of surgery: update all masks, with the probability of the present iteration.

    The draw comes from the seed and the position, so that nothing but the buffers has a state.
    """
    generator = make_generator(layers[0].seed, "surgery", repr(position))
    drawn = float(torch.rand((), dtype=torch.float64, generator=generator))
    updates = (1 + DECAY * layers[0].iteration.double()) ** -POWER > drawn
    for layer, mask in zip(layers, chosen_masks(layers, sparsity), strict=True):
        layer.mask.copy_(torch.where(updates, mask, layer.mask))
        layer.iteration += 1


def bake(model: nn.Module) -> nn.Module:
    """A copy of `model` with its layers as they were before the pruning, whose cut-off weights are zero.

    Its outputs are those of `model` to the bit; `bitops` counts all its weights.
    """

    def unwrap(_: str, module: nn.Module) -> nn.Module | None:
        if not isinstance(module, Pruned):
            return None
        with torch.no_grad():
            module.weight.copy_(module.masked_weight())
        return module.layer

    return replace_modules(copy.deepcopy(model), unwrap)
