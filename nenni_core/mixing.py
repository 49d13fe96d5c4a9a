"""z' = z where a neuron is essential, z_approx where it gets noise (paper equation 2)."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def mix(
    essential: Bool[Tensor, "*shape"], z: Float[Tensor, "*shape"], z_approx: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """Take `z` where `essential`, else `z_approx`."""
    return torch.where(essential, z, z_approx)


def mix_integers(
    essential: Int[Tensor, "*shape"], z: Float[Tensor, "*shape"], z_approx: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """`mix` for masks that are integers of the values' width, 1 where essential and 0 elsewhere.

    Equal to `mix` to the bit, and so are its gradients: the values are mixed as integers, whose arithmetic
    wraps around and so is exact. Several times faster on a CPU, where it takes two vectorised passes (see
    `select_essential_integers`). Where no gradient is wanted, `z` and `z_approx` are overwritten and the
    latter is returned: fresh memory costs more than the arithmetic.
    """
    if torch.is_grad_enabled() and (z.requires_grad or z_approx.requires_grad):
        return _MixIntegers.apply(essential, z, z_approx)
    mixed = z_approx.view(essential.dtype)
    mixed.addcmul_(z.view(essential.dtype).sub_(mixed), essential)
    return z_approx


class _MixIntegers(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, essential: Tensor, z: Tensor, z_approx: Tensor) -> Tensor:
        ctx.save_for_backward(essential)
        approximate = z_approx.view(essential.dtype)
        mixed = z.view(essential.dtype) - approximate
        return torch.addcmul(approximate, mixed, essential, out=mixed).view(z.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor | None, Tensor | None]:
        (essential,) = ctx.saved_tensors
        bits = gradient.view(essential.dtype)
        kept = bits * essential
        to_precise = kept.view(gradient.dtype) if ctx.needs_input_grad[1] else None
        to_approx = bits.sub(kept).view(gradient.dtype) if ctx.needs_input_grad[2] else None
        return None, to_precise, to_approx
