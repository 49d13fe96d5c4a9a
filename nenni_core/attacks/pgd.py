"""Projected gradient descent, written once as the formula.

Madry et al. 2018, "Towards deep learning models resistant to adversarial attacks", section 2.1:
`x <- project(x + step_size * direction(gradient of the loss at x))`, from a random point of the ball.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

Images = Float[Tensor, "batch channels height width"]
Loss = Callable[[Float[Tensor, "batch classes"], Int[Tensor, "batch"]], Float[Tensor, ""]]


@runtime_checkable
class Norm(Protocol):
    """The three places in which the formula depends on the norm of the ball."""

    def random_point(self, x: Images, eps: float, generator: torch.Generator) -> Images:
        """A perturbation drawn uniformly from the ball of radius `eps`, shaped as `x`."""
        ...

    def direction(self, gradient: Images) -> Images:
        """The steepest ascent direction of unit norm."""
        ...

    def project(self, delta: Images, eps: float) -> Images:
        """The point of the ball of radius `eps` that is nearest to `delta`."""
        ...


class Linf:
    """The maximum norm: every pixel moves by at most eps."""

    def random_point(self, x: Images, eps: float, generator: torch.Generator) -> Images:
        """Uniform in the cube [-eps, eps]; drawn on the generator's device."""
        uniform = torch.rand(x.shape, generator=generator, device=generator.device, dtype=x.dtype)
        return uniform.to(x.device).mul_(2 * eps).sub_(eps)

    def direction(self, gradient: Images) -> Images:
        """The sign of the gradient; 0 where the gradient is 0."""
        return gradient.sign()

    def project(self, delta: Images, eps: float) -> Images:
        """Each component clipped to [-eps, eps]."""
        return delta.clamp(-eps, eps)


LINF = Linf()


def summed_cross_entropy(
    logits: Float[Tensor, "batch classes"], y: Int[Tensor, "batch"]
) -> Float[Tensor, ""]:
    """The sum, not the mean: one image's gradient then does not depend on the size of its batch."""
    return F.cross_entropy(logits, y, reduction="sum")


@contextmanager
def frozen_parameters(model: nn.Module) -> Iterator[None]:
    """No parameter of `model` asks for a gradient inside; each gets its own flag back after."""
    thawed = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in thawed:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in thawed:
            parameter.requires_grad_(True)


def pgd(
    model: nn.Module,
    x: Images,
    y: Int[Tensor, "batch"],
    *,
    eps: float,
    step_size: float,
    steps: int,
    generator: torch.Generator,
    random_start: bool = True,
    norm: Norm = LINF,
    loss: Loss = summed_cross_entropy,
) -> Images:
    """Images within `eps` of `x` and within [0, 1] that increase the loss of `model`.

    `x` is in [0, 1], `eps` and `step_size` in the same units (8 / 255). The model maps pixels to
    logits and is used in the mode (train or eval, autocast, held noise) that the caller put it in. No
    gradient of a parameter is computed or touched, the memory format of `x` is kept, and the random
    start comes from `generator` alone, preferably on the device of `x`. Works under `torch.no_grad`.

    `loss` maps float32 logits and `y` to the scalar that is to grow.
    """
    x = x.detach()
    delta = norm.random_point(x, eps, generator) if random_start else torch.zeros_like(x)
    x_adv = (x + delta).clamp_(0, 1)
    with frozen_parameters(model), torch.enable_grad():
        for _ in range(steps):
            x_adv.requires_grad_(True)
            (gradient,) = torch.autograd.grad(loss(model(x_adv).float(), y), x_adv)
            step = x_adv.detach() + step_size * norm.direction(gradient)
            x_adv = (x + norm.project(step - x, eps)).clamp_(0, 1)
    return x_adv
