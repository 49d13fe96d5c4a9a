"""Gaussian noise on the weights, as large as training makes it."""

from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nenni_core.bitops import ADDITION, GAUSSIAN_SAMPLE, MULTIPLICATION
from nenni_core.defenses.defense import groups_by_decay
from nenni_core.defenses.mixed_training import MixedTraining
from nenni_core.defenses.wrapping import replace_modules, run_with_weight
from nenni_core.errors import InputError, require, unknown_choice
from nenni_core.randomness import NoiseStream, set_noise

GRANULARITIES = ("layerwise", "channelwise")


class NoisyWeights(nn.Module):
    """`layer` with the weights w + alpha eta, eta normal with the standard deviation of w; in both modes.

    The deviation is that of all weights of the layer (with Bessel's correction) and takes no gradient. One
    draw serves the whole batch. Biases have no noise.

    Args:
        layer: a convolution or linear layer.
        alpha: where the trained `alpha` starts; at 0 this is `layer` to the bit.
        channelwise: whether each output channel has its own `alpha`, or the layer one.
    """

    noise_stream: NoiseStream

    def __init__(self, layer: nn.Conv2d | nn.Linear, alpha: float, *, channelwise: bool) -> None:
        super().__init__()
        self.layer = layer
        count = layer.weight.shape[0] if channelwise else 1
        self.alpha = nn.Parameter(torch.full((count,), alpha, device=layer.weight.device))
        self.noise_stream = NoiseStream(0, "inference")

    def forward(self, x: Float[Tensor, "batch *input"]) -> Float[Tensor, "batch *output"]:
        return run_with_weight(self.layer, self.perturbed_weight(), x)

    def perturbed_weight(self) -> Float[Tensor, "outputs *inputs"]:
        """The weights with a draw of the noise."""
        weight: Tensor = self.layer.weight
        fixed = weight.detach()
        deviation = fixed.std(correction=min(1, fixed.numel() - 1))  # a single weight has deviation 0
        noise = deviation * self.noise_stream.normal(self, fixed, fixed.shape)
        return weight + self.alpha.reshape(-1, *[1] * (weight.dim() - 1)) * noise

    def own_bitops(self, input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> float:
        """Per weight: a normal number, its product with the deviation, the sum; a deviation per alpha."""
        shape: tuple[int, ...] = self.layer.weight.shape
        each = GAUSSIAN_SAMPLE + MULTIPLICATION + ADDITION
        return prod(shape) * each + self.alpha.numel() * MULTIPLICATION


@dataclass(frozen=True, kw_only=True)
class ParametricNoise(MixedTraining):
    """Parametric noise injection: the weights of all convolutions and linear layers are w + alpha eta.

    He et al. 2019, arXiv 1811.09310, as their code (elliothe/CVPR_2019_PNI): eta has the standard deviation
    of w, alpha is trained without weight decay, and the loss is half clean, half adversarial.

    Departures: the training attack has the recipe's radius and steps (theirs: 0.031 and seven of 0.01), true
    labels (predicted ones), the model in train mode (a copy in eval mode) and one draw of the noise in all
    of its steps (a fresh one in each); its images are searched before the clean forward pass instead of
    after it. Optimiser, schedule, weight decay of the weights, augmentation and network are the recipe's.
    One alpha per weight, which their code has too, is not offered.
    """

    title: ClassVar[str] = "Parametric Noise Injection (He et al., 2019)"
    is_random: ClassVar[bool] = True

    alpha: float = 0.25
    """Where each alpha starts, in standard deviations of the weights."""
    granularity: str = "layerwise"
    """Who has an alpha: each layer ("layerwise", the paper's) or each output channel ("channelwise")."""
    clean_start: float = 5 / 160
    """Share of the epochs that are trained on clean images alone before (five of 160)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require("alpha", self.alpha, abs(self.alpha) <= 1e6, "in [-1e6, 1e6]")
        if self.granularity not in GRANULARITIES:
            raise unknown_choice("granularity", self.granularity, list(GRANULARITIES))

    def wrap(self, model: nn.Module, seed: int, image_shape: tuple[int, int, int]) -> nn.Module:
        """Each convolution and linear layer becomes a `NoisyWeights`; none at all is an `InputError`."""

        def noisy(name: str, module: nn.Module) -> nn.Module | None:
            if not isinstance(module, nn.Conv2d | nn.Linear):
                return None
            return NoisyWeights(module, self.alpha, channelwise=self.granularity == "channelwise")

        kind = type(model).__name__
        model = replace_modules(model, noisy)
        if not any(isinstance(module, NoisyWeights) for module in model.modules()):
            raise InputError(f"{kind} has no nn.Conv2d or nn.Linear layer whose weights could have noise")
        set_noise(model, "inference", seed)
        return model

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """The recipe's weight decay for all but the alphas, which have none."""
        special = [module.alpha for module in model.modules() if isinstance(module, NoisyWeights)]
        return groups_by_decay(model, special, 0.0)
