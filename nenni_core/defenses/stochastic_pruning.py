"""Stochastic activation pruning: which activations survive is drawn anew in each forward pass."""

from dataclasses import dataclass
from math import ceil, log2, prod
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nenni_core.bitops import ADDITION, MULTIPLICATION, UNIFORM_SAMPLE
from nenni_core.defenses.fine_tuned import FineTuned
from nenni_core.defenses.wrapping import replace_modules
from nenni_core.errors import InputError, require
from nenni_core.randomness import NoiseStream, set_noise


class StochasticPruning(nn.Module):
    """Keeps what is drawn of the outputs h of `layer`, scaled such that the expectation stays h.

    From each sample's n values r = fraction * n are drawn with replacement, value j with probability
    p_j = |h_j| / sum |h|. What was drawn at least once is divided by the probability of that,
    1 - (1 - p_j)^r; the others become 0, as does a map that is 0 everywhere. Scale and choice are constants
    for the gradient.
    """

    def __init__(self, layer: nn.Module, fraction: float) -> None:
        super().__init__()
        self.layer, self.fraction = layer, fraction
        self.noise_stream = NoiseStream(0, "inference")

    def draws(self, values: int) -> int:
        """How often one of `values` is drawn: the whole part of fraction * values, at least 1."""
        return max(1, int(self.fraction * values))

    def forward(
        self, x: Float[Tensor, "batch channels *position"]
    ) -> Float[Tensor, "batch channels *outputs"]:
        """The outputs that survive."""
        h = self.layer(x)
        last = h.movedim(1, -1)
        scale = self._scale(last.detach().flatten(1))
        return h * scale.to(h.dtype).view(last.shape).movedim(-1, 1)

    def _scale(self, h: Float[Tensor, "batch values"]) -> Float[Tensor, "batch values"]:
        """What each value is multiplied by.

        A uniform number u draws the value j with c_(j-1) <= u < c_j, c being the sums of p up to j. With all
        u of a sample in order, the c_j find their places among them, and j was drawn if its place is another
        than that of j - 1. A held draw is one set of numbers u for all images: which values it draws depends
        on the image alone.
        """
        count = self.draws(h.shape[1])
        magnitude = h.abs().double()
        sums = magnitude.cumsum(1)
        total = torch.where(sums[:, -1:] > 0, sums[:, -1:], 1.0)
        uniform = self._sorted_uniform(h, count)
        places = torch.searchsorted(uniform[0] if len(uniform) == 1 else uniform, sums / total)
        drawn = torch.diff(places, dim=1, prepend=places.new_zeros(len(places), 1)) > 0
        p = (magnitude / total).float()  # places among many numbers need double precision, factors do not
        included = -torch.expm1(count * torch.log1p(-p))
        return torch.where(drawn, 1 / included, 0.0)

    def _sorted_uniform(self, h: Tensor, count: int) -> Float[Tensor, "samples draws"]:
        """`count` independent uniform numbers in ascending order, for each sample or, while held, for all.

        The partial sums of count + 1 exponential numbers over their total are distributed so.
        """
        # By their number, for a layer that is used at several places with maps of different sizes.
        kept: dict[int, Tensor] = self.noise_stream.draw(self, lambda stream: {})
        if count not in kept:
            stream = self.noise_stream
            uniform = torch.rand(
                1 if stream.held else len(h),
                count + 1,
                generator=stream.generator_on(h.device),
                device=h.device,
                dtype=torch.float64,
            )
            sums = (-torch.log1p(-uniform)).cumsum(1)
            kept[count] = (sums[:, :-1] / sums[:, -1:]).contiguous()
        return kept[count]

    def own_bitops(self, input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> float:
        """What is done for one map of n values with r draws, as hardware would do it.

        The n sums are additions. A draw is a uniform number, a multiplication by the total, and a binary
        search of log2 n comparisons. A survivor, of which there are min(n, r) at most, costs three
        multiplications (the division that gives p, the factor, which is read from a table and interpolated,
        and the product) and one addition.
        """
        values = prod(output_shape)
        count = self.draws(values)
        draw = UNIFORM_SAMPLE + MULTIPLICATION + ceil(log2(values)) * ADDITION
        return values * ADDITION + count * draw + min(values, count) * (3 * MULTIPLICATION + ADDITION)

    def extra_repr(self) -> str:
        """The fraction, for `print(model)`."""
        return f"fraction={self.fraction}"


@dataclass(frozen=True, kw_only=True)
class StochasticActivationPruning(FineTuned):
    """`StochasticPruning` after every ReLU of a trained network (Dhillon et al. 2018, arXiv 1803.01442).

    It is put on afterwards, without fine-tuning, and works in train and eval mode alike.

    Departures: the trained network is an adversarially trained one by default (`base`), and it may be
    fine-tuned; in a network whose first convolution has a ReLU of its own this one is followed by a pruning
    too (the paper's network has none there); an evaluation decides how many forward passes are averaged (the
    paper's code averages the probabilities of 100).
    """

    title: ClassVar[str] = "Stochastic Activation Pruning (Dhillon et al., 2018)"
    is_random: ClassVar[bool] = True

    fraction: float = 1.0
    """Draws for each value of a map, above 0; more than 1 is allowed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require("fraction", self.fraction, 0 < self.fraction <= 1000, "in (0, 1000]")

    def wrap(self, model: nn.Module, seed: int, image_shape: tuple[int, int, int]) -> nn.Module:
        """`model` with each ReLU in a `StochasticPruning`."""
        if not any(isinstance(module, nn.ReLU) for module in model.modules()):
            raise InputError(f"{type(model).__name__} has no nn.ReLU to prune the outputs of")

        def prune(_: str, module: nn.Module) -> nn.Module | None:
            return StochasticPruning(module, self.fraction) if isinstance(module, nn.ReLU) else None

        model = replace_modules(model, prune)
        set_noise(model, "inference", seed)
        return model
