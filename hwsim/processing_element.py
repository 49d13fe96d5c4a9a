"""The arithmetic of a processing element: sixteen 4x4 bricks and a shift-add tree.

In two's complement sum_i 16**i * digit_i is the number if the top digit is signed and the others are not.
So a brick that takes either kind builds wide products from narrow ones, as the 2-bit bricks of Bit Fusion do
(Sharma et al., ISCA 2018). Nothing here multiplies: products are sums of shifted digits, as in the hardware,
and the tests compare them with Python's own. `rtl/processing_element.v` is the same in Verilog.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from hwsim.errors import InputError, unknown_choice

Mode = Literal["precise", "approximate"]
Integers = npt.NDArray[np.int64]

WORD_BITS: Final = 16
"""Bits of an operand x and of a precise weight."""

BRICK_BITS: Final = 4
"""Bits of each operand of a brick; of a digit, and of an approximate weight."""

DIGITS: Final = WORD_BITS // BRICK_BITS
"""Digits of a word; also weights, and so products, of one approximate operation."""

TOP_DIGIT_SIGNED: Final = (False,) * (DIGITS - 1) + (True,)
"""Which digits of a signed word have a sign, lowest digit first."""

BRICKS: Final = DIGITS**2
"""Bricks of an element: all pairs of a digit of x and a digit of the weight."""

BRICK_LATENCY: Final = 2
"""Cycles: operand registers, product registers."""

SHIFT_ADD_LATENCY: Final = 3
"""Cycles: x by one digit of the weight, pairs of these, the whole product."""

LATENCY: Final = BRICK_LATENCY + SHIFT_ADD_LATENCY
"""Cycles from operands to products, the same in both modes; a new operation can start in each."""

PRODUCTS_PER_CYCLE: Final[Mapping[Mode, int]] = MappingProxyType({"precise": 1, "approximate": DIGITS})
"""16x16 products that an element finishes per cycle, or 16x4 products."""


def digits(values: npt.ArrayLike) -> Integers:
    """Signed 16-bit `values` in base 16, lowest digit first: shape (..., 4).

    Digits 0 to 2 are in [0, 15], digit 3, which has the sign, in [-8, 7]. `InputError` for other values.
    """
    words = _integers("values", values, *_range(WORD_BITS, signed=True))
    found = words[..., None] >> BRICK_BITS * np.arange(DIGITS)  # arithmetic: the top digit keeps its sign
    found[..., :-1] &= 2**BRICK_BITS - 1
    return found


def brick(a: npt.ArrayLike, b: npt.ArrayLike, *, a_signed: bool, b_signed: bool) -> Integers:
    """a * b of 4-bit operands: in [-8, 7] where signed, else in [0, 15]. The product is in [-120, 225].

    `InputError` for an operand out of its range.
    """
    a_values = _integers("a", a, *_range(BRICK_BITS, signed=a_signed))
    b_values = _integers("b", b, *_range(BRICK_BITS, signed=b_signed))
    product = np.zeros(np.broadcast_shapes(a_values.shape, b_values.shape), dtype=np.int64)
    for bit in range(BRICK_BITS):
        row = np.where(b_values >> bit & 1, a_values << bit, 0)
        product += -row if b_signed and bit == BRICK_BITS - 1 else row
    return product


def bricks(x_digits: npt.ArrayLike, weight_digits: npt.ArrayLike, *, mode: Mode) -> Integers:
    """What the sixteen bricks give: entry (..., r, i) is x digit i times weight digit r.

    `x_digits` are those of `digits`. So are `weight_digits` in mode "precise"; in mode "approximate" they are
    four weights in [-8, 7], each with a sign of its own. Both have shape (..., 4); leading axes broadcast.
    `InputError` for a digit out of its range.
    """
    if mode not in PRODUCTS_PER_CYCLE:
        raise unknown_choice("mode", mode, PRODUCTS_PER_CYCLE)
    x_signs = TOP_DIGIT_SIGNED
    weight_signs = TOP_DIGIT_SIGNED if mode == "precise" else (True,) * DIGITS
    x = _four_digits("x_digits", x_digits, x_signs)
    weights = _four_digits("weight_digits", weight_digits, weight_signs)
    products = np.empty((*np.broadcast_shapes(x.shape, weights.shape), DIGITS), dtype=np.int64)
    for r, weight_signed in enumerate(weight_signs):
        for i, x_signed in enumerate(x_signs):
            products[..., r, i] = brick(x[..., i], weights[..., r], a_signed=x_signed, b_signed=weight_signed)
    return products


def compose_16x16(x_digits: npt.ArrayLike, weight_digits: npt.ArrayLike) -> Integers:
    """One signed 16x16 product per element, in [-(2**30 - 2**15), 2**30], from the `digits` of both operands.

    Shapes (..., 4) and (..., 4) give (...).
    """
    return _shift_add(_shift_add(bricks(x_digits, weight_digits, mode="precise")))


def four_4x16(x_digits: npt.ArrayLike, weight_digits: npt.ArrayLike) -> Integers:
    """Four signed 16x4 products per element, in [-262136, 262144] (20 bits): x by four weights.

    `x_digits` are the `digits` of x; each of `weight_digits` is a weight in [-8, 7]. Shapes (..., 4) and
    (..., 4) give (..., 4), in the order of the weights.
    """
    return _shift_add(bricks(x_digits, weight_digits, mode="approximate"))


def _shift_add(parts: Integers) -> Integers:
    """sum_i 16**i * parts[..., i]."""
    shifted: Integers = parts << BRICK_BITS * np.arange(DIGITS)
    return np.asarray(shifted.sum(axis=-1))


def _range(bits: int, *, signed: bool) -> tuple[int, int]:
    """The lowest and the highest number of so many bits."""
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def _four_digits(name: str, values: npt.ArrayLike, signs: tuple[bool, ...]) -> Integers:
    """`values` with a last axis of four, or an `InputError` that names the digit that is out of its range."""
    found = np.asarray(values)
    if found.shape[-1:] != (DIGITS,):
        raise InputError(f"{name} has shape {found.shape}; expected {DIGITS} digits along the last axis")
    columns = [
        _integers(f"{name}[..., {i}]", found[..., i], *_range(BRICK_BITS, signed=signed))
        for i, signed in enumerate(signs)
    ]
    return np.stack(columns, axis=-1)


def _integers(name: str, values: npt.ArrayLike, lowest: int, highest: int) -> Integers:
    """`values` as int64, or an `InputError` that names the first one outside [lowest, highest]."""
    found = np.asarray(values)
    if found.dtype.kind not in "iu":
        raise InputError(f"{name} has type {found.dtype}; expected integers from {lowest} to {highest}")
    wrong = (found < lowest) | (found > highest)
    if np.any(wrong):
        raise InputError(
            f"{name} contains {found[wrong].flat[0]}; expected integers from {lowest} to {highest}"
        )
    return found.astype(np.int64)
