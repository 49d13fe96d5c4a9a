"""Sparse random projections (Achlioptas 2001; paper section 3.3, with s = 3)."""

import math
from fractions import Fraction

import torch
from jaxtyping import Float, Int8
from torch import Tensor


def projection_rank(input_dimension: int, projection_ratio: float) -> int:
    """k = ceil(projection_ratio * d), at least 1, with the decimal that was written (0.07 * 100 is 7)."""
    return max(1, math.ceil(Fraction(str(projection_ratio)) * input_dimension))


def draw_signs(
    rank: int, input_dimension: int, generator: torch.Generator
) -> Int8[Tensor, "rank input_dimension"]:
    """Entries -1, 0, +1 with probabilities 1/6, 2/3, 1/6, independent, drawn from `generator`.

    The projection is P = `projection_scale(rank)` * signs; E[P^T P] = I, so that (P x) . (P w) is an
    unbiased estimate of x . w whose variance falls as 1 / rank. P needs no multiplications.
    """
    dice = torch.randint(0, 6, (rank, input_dimension), generator=generator, dtype=torch.int8)
    return (dice == 5).to(torch.int8) - (dice == 0).to(torch.int8)


def projection_scale(rank: int) -> float:
    """sqrt(3 / k), the size of the non-zero entries of P."""
    return math.sqrt(3 / rank)


def projection_matrix(
    signs: Int8[Tensor, "*groups rank input_dimension"],
) -> Float[Tensor, "*groups rank input_dimension"]:
    """P in sqrt(3/k) * {-1, 0, +1}^(k x d) as float32."""
    return signs.float() * projection_scale(signs.shape[-2])
