"""Gaussian noise in front of every convolution, as fixed standard deviations say."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from nenni_core.bitops import ADDITION, GAUSSIAN_SAMPLE, MULTIPLICATION
from nenni_core.defenses.adversarial_training import ModifiedNetwork
from nenni_core.defenses.wrapping import replace_modules
from nenni_core.errors import InputError, require
from nenni_core.models.normalize import Normalize
from nenni_core.randomness import NoiseStream, set_noise


class NoisyInput(nn.Module):
    """`layer` at x + sigma n, or at x (1 + sigma n), where each n is standard normal; in both modes.

    Each image of a batch has a draw of its own. While the noise stream is held there is one draw that all
    images share, since images may leave the batch meanwhile.

    Args:
        layer: takes (batch, channels, height, width).
        sigma: standard deviation, at least 0; at 0 this is `layer` to the bit.
        multiplicative: whether the noise is in proportion to x.
    """

    noise_stream: NoiseStream

    def __init__(self, layer: nn.Module, sigma: float, *, multiplicative: bool) -> None:
        super().__init__()
        self.layer, self.sigma, self.multiplicative = layer, sigma, multiplicative
        self.noise_stream = NoiseStream(0, "inference")

    def forward(
        self, x: Float[Tensor, "batch inputs height width"]
    ) -> Float[Tensor, "batch outputs out_height out_width"]:
        return self.layer(x if self.sigma == 0 else self.perturbed(x))

    def perturbed(
        self, x: Float[Tensor, "batch inputs height width"]
    ) -> Float[Tensor, "batch inputs height width"]:
        """`x` with a draw of the noise."""
        images = 1 if self.noise_stream.held else len(x)
        noise = self.sigma * self.noise_stream.normal(self, x, (images, *x.shape[1:]))
        return x * (1 + noise) if self.multiplicative else x + noise

    def own_bitops(self, input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> float:
        """Per input: a normal number, its product with sigma, a sum; if multiplicative, a second product."""
        if self.sigma == 0:
            return 0.0
        channels, height, width = input_shape
        multiplications = 2 if self.multiplicative else 1
        each = GAUSSIAN_SAMPLE + multiplications * MULTIPLICATION + ADDITION
        return channels * height * width * each

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        return f"sigma={self.sigma}, multiplicative={self.multiplicative}"


@dataclass(frozen=True, kw_only=True)
class RandomSelfEnsemble(ModifiedNetwork):
    """Additive noise x + sigma n before every convolution (Liu et al. 2018, arXiv 1712.00673).

    The standard deviations are those of the first author's later code (xuanqing94/BayesianDefense). The
    convolutions of shortcuts have their noise too, shortcuts without one do not.

    Departures: trained adversarially, as the comparison tables of arXiv 2402.04325 do, where the original
    trains on clean images (`objective="clean"`). One forward pass is one draw; the original adds up the
    probabilities of several, which here is up to who evaluates. The original does not normalise its images;
    where the model begins with a `Normalize`, the first noise is in front of that, so that it is on pixels in
    [0, 1] as there. A held draw is shared by the images. Optimiser and schedule are the recipe's.
    """

    title: ClassVar[str] = "RSE (Add) (Liu et al., 2018)"
    is_random: ClassVar[bool] = True
    multiplicative: ClassVar[bool] = False

    sigma_init: float = 0.2
    """Standard deviation on the images, in [0, 1] pixel units."""
    sigma_inner: float = 0.1
    """Standard deviation before the other ones, in units of their inputs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("sigma_init", "sigma_inner"):
            value = getattr(self, name)
            require(name, value, 0 <= value < float("inf"), "at least 0")

    def wrap(self, model: nn.Module, seed: int, image_shape: tuple[int, int, int]) -> nn.Module:
        """Each convolution becomes a `NoisyInput`; the first one's noise is in front of a `Normalize`.

        Raises `InputError` if there is no convolution.
        """
        convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
        if not convolutions:
            raise InputError(f"{type(model).__name__} has no nn.Conv2d layer to put noise in front of")
        on_images = next((m for m in model.modules() if isinstance(m, Normalize)), convolutions[0])
        sigmas = {id(module): self.sigma_inner for module in convolutions[1:]}
        sigmas[id(on_images)] = self.sigma_init

        def noisy(name: str, module: nn.Module) -> nn.Module | None:
            if id(module) not in sigmas:
                return None
            return NoisyInput(module, sigmas[id(module)], multiplicative=self.multiplicative)

        model = replace_modules(model, noisy)
        set_noise(model, "inference", seed)
        return model


@dataclass(frozen=True, kw_only=True)
class MultiplicativeNoise(RandomSelfEnsemble):
    """Noise in proportion to the activation, x (1 + sigma n), before every convolution.

    Departure: Liu et al. 2018 have additive noise only. The tables of arXiv 2402.04325 list this variant
    beside it without saying where it comes from; standard deviations and places are the additive one's. The
    form is that of the multiplicative noise in Liu et al. 2019 (arXiv 1906.02355, "Neural SDE").
    """

    title: ClassVar[str] = "RSE (Multiply) (Liu et al., 2018)"
    multiplicative: ClassVar[bool] = True
