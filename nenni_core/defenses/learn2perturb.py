"""Gaussian noise on feature maps, with a trained standard deviation for each of their values."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nenni_core.bitops import ADDITION, GAUSSIAN_SAMPLE, MULTIPLICATION
from nenni_core.defenses.defense import Batch, Labels, LossAndLogits, StepContext, groups_by_decay
from nenni_core.defenses.mixed_training import MixedTraining
from nenni_core.defenses.wrapping import replace_modules
from nenni_core.errors import InputError, require
from nenni_core.models.resnet import BasicBlock, ResNet
from nenni_core.models.wide_resnet import PreactivationBlock, WideResNet
from nenni_core.modes import observed_only
from nenni_core.randomness import NoiseStream, set_noise


class PerturbedMap(nn.Module):
    """`layer` at x + sigma n, n standard normal, `sigma` trained for each value of the map; in both modes.

    One draw serves the whole batch. `active`, part of the state, is 0 while there is no noise yet, else 1.

    Args:
        layer: takes (batch, *shape).
        shape: of one image's map.
        sigma: where the standard deviations start.
    """

    noise_stream: NoiseStream
    active: Tensor

    def __init__(self, layer: nn.Module, shape: tuple[int, ...], sigma: float, device: torch.device) -> None:
        super().__init__()
        self.layer = layer
        self.sigma = nn.Parameter(torch.full(shape, sigma, device=device))
        self.register_buffer("active", torch.ones((), device=device))
        self.noise_stream = NoiseStream(0, "inference")

    def forward(self, x: Float[Tensor, "batch *features"]) -> Float[Tensor, "batch *features"]:
        noise = self.noise_stream.normal(self, x, (1, *self.sigma.shape))
        return self.layer(x + (self.active * self.sigma).to(x.dtype) * noise)

    def own_bitops(self, input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> float:
        """Per value: a normal number, its product with sigma, and the sum."""
        return prod(input_shape) * (GAUSSIAN_SAMPLE + MULTIPLICATION + ADDITION)


@dataclass(frozen=True, kw_only=True)
class Learn2Perturb(MixedTraining):
    """Learn2Perturb: x + sigma n on feature maps, a trained sigma for each of their values.

    Jeddi et al. 2020, arXiv 2003.01090, as the first author's code (ArmenJeddi/Learn2Perturb): noise after
    the first convolution and batch norm, and after each residual sum, before the ReLU. The loss is half
    clean, half adversarial, and -(gamma / tau) times the sum of all sqrt(sigma), which makes the noise
    grow; tau is the harmonic number of the epochs since the noise began. No sigma falls below `minimum`.

    In our wide residual networks, where a sum goes on without a ReLU, the noise is in front of the first
    ReLU of each block and of the last one, so that the shortcuts have none. In networks of other origin it
    is in front of each `nn.ReLU`.

    Departures: one step on the whole loss, where the original alternates a step of the sigmas on their own
    term with one of all parameters on the cross-entropies. Tau is 1 in the first epoch of the noise, where
    their code divides by 0.
    The training attack has the recipe's radius and steps (theirs: 8/255 and seven of 0.01), true labels
    (predicted ones), the model in train mode (eval mode) and one draw of the noise in all of its steps (a
    fresh one in each). Optimiser, schedule and network are the recipe's; the sigmas have no weight decay,
    as in the original.
    """

    title: ClassVar[str] = "Learn2Perturb (Jeddi et al., 2020)"
    is_random: ClassVar[bool] = True

    sigma: float = 0.25
    """Where each standard deviation starts, in units of the feature map; at least `minimum`."""
    minimum: float = 0.01
    """What each standard deviation is raised to after a step that leaves it below, above 0."""
    gamma: float = 1e-4
    """Weight of the term that makes the noise grow, at least 0."""
    noise_start: float = 10 / 350
    """Share of the epochs, in [0, 1], that are trained without noise before (ten of 350)."""
    clean_start: float = 20 / 350
    """Share of the epochs that are trained on clean images alone before (20 of 350)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require("minimum", self.minimum, 0 < self.minimum < float("inf"), "above 0")
        require("sigma", self.sigma, self.minimum <= self.sigma <= 1e6, "from minimum to 1e6")
        require("gamma", self.gamma, 0 <= self.gamma < float("inf"), "at least 0")
        require("noise_start", self.noise_start, 0 <= self.noise_start <= 1, "in [0, 1]")

    def wrap(self, model: nn.Module, seed: int, image_shape: tuple[int, int, int]) -> nn.Module:
        """ReLUs become `PerturbedMap`s of the maps that an image of `image_shape` gives.

        Raises `InputError` if there is no ReLU, or if one sees maps of several shapes.
        """
        places = _places(model)
        shapes = _input_shapes(model, places, image_shape)
        if not shapes:
            raise InputError(f"{type(model).__name__} has no nn.ReLU layer to put noise in front of")
        device = next(model.parameters(), torch.zeros(())).device

        def noisy(name: str, module: nn.Module) -> nn.Module | None:
            found = shapes.get(id(module))
            if found is None:
                return None
            if len(found) > 1:
                raise InputError(
                    f"layer {name!r} sees maps of {len(found)} shapes, {sorted(found)}; expected one shape, "
                    "as its noise has a standard deviation for each value: give each place a ReLU of its own"
                )
            (shape,) = found
            return PerturbedMap(module, shape, self.sigma, device)

        model = replace_modules(model, noisy)
        self._switch(model, position=0.0, epochs=1)
        set_noise(model, "inference", seed)
        return model

    def step(self, model: nn.Module, x: Batch, y: Labels, context: StepContext) -> LossAndLogits:
        """The loss of one batch, with noise if it has begun."""
        self._switch(model, context.position, context.epochs)
        return super().step(model, x, y, context)

    def loss(
        self, model: nn.Module, x: Batch, x_adv: Batch, y: Labels, context: StepContext
    ) -> LossAndLogits:
        """The weighted cross-entropies and the term that makes the noise grow, once it has begun."""
        loss, logits = super().loss(model, x, x_adv, y, context)
        maps = list(perturbed_maps(model))
        past = context.position - self.noise_start * context.epochs
        if not maps or past < 0:
            return loss, logits
        tau = sum(1 / i for i in range(1, max(1, int(past)) + 1))
        grown = torch.stack([module.sigma.sqrt().sum() for module in maps]).sum()
        return loss - self.gamma / tau * grown, logits

    def maintain(self, model: nn.Module, context: StepContext) -> None:
        """No sigma stays below `minimum` after the step."""

        @torch.no_grad()
        def keep_above_minimum() -> None:
            for module in perturbed_maps(model):
                module.sigma.clamp_(min=self.minimum)

        context.after_step.callback(keep_above_minimum)

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """The recipe's weight decay for all but the sigmas, which have none."""
        special = [module.sigma for module in perturbed_maps(model)]
        return groups_by_decay(model, special, 0.0)

    def _switch(self, model: nn.Module, position: float, epochs: int) -> None:
        """Turn the noise on or off as at `position` epochs of `epochs`."""
        for module in perturbed_maps(model):
            module.active.fill_(float(position >= self.noise_start * epochs))


def perturbed_maps(model: nn.Module) -> Iterator[PerturbedMap]:
    """The places of `model` with trained noise, in the order of its modules."""
    return (module for module in model.modules() if isinstance(module, PerturbedMap))


def _places(model: nn.Module) -> list[nn.Module]:
    """The ReLUs that get noise: those after residual sums in our networks, in others all."""
    places: list[nn.Module] = []
    for module in model.modules():
        if isinstance(module, ResNet | WideResNet):
            places.append(module.relu)
        elif isinstance(module, BasicBlock):
            places.append(module.relu2)
        elif isinstance(module, PreactivationBlock):
            places.append(module.relu1)
    return places or [module for module in model.modules() if isinstance(module, nn.ReLU)]


def _input_shapes(
    model: nn.Module, places: list[nn.Module], image_shape: tuple[int, int, int]
) -> dict[int, set[tuple[int, ...]]]:
    """The shapes of one image's maps in front of each of `places` that is used, by its id."""
    shapes: dict[int, set[tuple[int, ...]]] = {}

    def look(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        shapes.setdefault(id(module), set()).add(tuple(inputs[0].shape[1:]))

    handles = [place.register_forward_pre_hook(look) for place in places]
    reference = next(model.parameters(), torch.zeros(()))
    try:
        with torch.no_grad(), observed_only(model):
            model(torch.zeros(1, *image_shape, device=reference.device, dtype=reference.dtype))
    finally:
        for handle in handles:
            handle.remove()
    return shapes
