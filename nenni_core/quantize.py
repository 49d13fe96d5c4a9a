"""Fixed-point rounding of the approximation's parameters (paper section 3.1: one-time, INT4)."""

import torch
from jaxtyping import Float
from torch import Tensor


def integer_range(bits: int) -> tuple[int, int]:
    """Smallest and largest two's complement integer of `bits` bits, (-8, 7) for INT4."""
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


class _FixedPoint(torch.autograd.Function):
    """Round to multiples of 2**exponent; the gradient passes where the value was not clipped."""

    @staticmethod
    def forward(ctx, values, exponent, bits, dither):  # type: ignore[no-untyped-def]
        low, high = integer_range(bits)
        scaled = torch.ldexp(values, -exponent)
        ctx.save_for_backward((scaled >= low - 0.5) & (scaled <= high + 0.5))
        rounded = scaled.round() if dither is None else (scaled + dither).floor()
        return torch.ldexp(rounded.clamp_(low, high), exponent)

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        (inside,) = ctx.saved_tensors
        return gradient * inside, None, None, None


def fixed_point(
    values: Float[Tensor, "*shape"],
    exponent: Float[Tensor, "*scales"],
    bits: int,
    dither: Float[Tensor, "*shape"] | None = None,
) -> Float[Tensor, "*shape"]:
    """`values` rounded to `bits`-bit multiples of 2**`exponent`, clipped to the integer range.

    `exponent` holds whole numbers and broadcasts against `values`. With `dither` uniform in [0, 1) the
    rounding is stochastic and, inside the range, unbiased. The gradient is straight-through: one where
    the value was not clipped, zero where it was (Bengio et al. 2013).
    """
    return _FixedPoint.apply(values, exponent, bits, dither)


def best_exponent(
    values: Float[Tensor, "rows columns"], bits: int, *, per_row: bool
) -> Float[Tensor, "scales 1"]:
    """The power-of-two exponent with the least squared rounding error, for all of `values` or for each row.

    The candidates are the smallest exponent that clips nothing and the three below it: clipping a few
    outliers often costs less than rounding everything more coarsely. All zeros give exponent 0.
    """
    rows = values.detach() if per_row else values.detach().reshape(1, -1)
    _, high = integer_range(bits)
    largest = rows.abs().amax(dim=1, keepdim=True)
    widest = torch.where(largest > 0, torch.ceil(torch.log2(largest / high)), torch.zeros_like(largest))
    widest = widest.clamp_min(-100)  # what is smaller is zero, and 2**-exponent would overflow
    best, least = widest, torch.full_like(widest, float("inf"))
    for offset in range(4):
        exponent = widest - offset
        error = (fixed_point(rows, exponent, bits) - rows).square().sum(dim=1, keepdim=True)
        best, least = torch.where(error < least, exponent, best), torch.minimum(error, least)
    return best
