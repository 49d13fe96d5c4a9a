"""Bit operations: what a network costs, dense and with noise (paper tables 1, 2 and 4).

A b1 x b2 bit multiplication counts b1 * b2, a b-bit addition b: sixteen BitOPs are four 4-bit additions
or one 4-bit multiplication (note of paper figure 5). A precise multiply-accumulate is 16 x 16 bits, an
approximate one 4 x 16; the projection needs one 4-bit addition for each of the k * d / 3 entries of P
that are expected to be non-zero, and every output neuron one 16-bit comparison with the threshold. Of the
readings that the printed costs allow this is the one that gives all of their ratios.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import prod

import torch
from torch import Tensor, nn

from nenni_core.errors import InputError, unknown_choice
from nenni_core.inject import dense_mode
from nenni_core.injection import Injection, Pattern
from nenni_core.layers import NoisyLayer
from nenni_core.modes import eval_mode

PRECISE_BITS = 16


@dataclass(frozen=True, kw_only=True)
class LayerBitOps:
    """Cost of one layer for one image, in BitOPs unless the name says otherwise."""

    name: str
    macs: int
    """Multiply-accumulates of the dense layer."""
    outputs: int
    """Output neurons (channels x positions)."""
    density: float
    """Share of the outputs that are computed precisely."""
    dense: float
    """The dense layer."""
    precise: float
    """The essential outputs."""
    approximate: float
    """Multiplications by the low-precision weights."""
    projection: float
    """Additions of the random projection."""
    selection: float
    """Comparisons with the threshold."""

    @property
    def total(self) -> float:
        """All that the layer costs with noise."""
        return self.precise + self.approximate + self.projection + self.selection


@dataclass(frozen=True)
class BitOps:
    """Cost of a network for one image."""

    layers: tuple[LayerBitOps, ...]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the dense network."""
        return sum(layer.macs for layer in self.layers)

    @property
    def dense(self) -> float:
        """BitOPs of the dense network."""
        return sum(layer.dense for layer in self.layers)

    @property
    def total(self) -> float:
        """BitOPs with noise; equal to `dense` for a plain model."""
        return sum(layer.total for layer in self.layers)

    @property
    def ratio(self) -> float:
        """`total` over `dense`."""
        return self.total / self.dense

    @property
    def reduction(self) -> float:
        """1 - `ratio`, as the paper prints it with a minus sign."""
        return 1 - self.ratio


def bitops(
    model: nn.Module, input_shape: tuple[int, int, int], densities: Mapping[str, float] | None = None
) -> BitOps:
    """Count the convolutions (and injected linear layers) of `model` for one image of `input_shape`.

    Args:
        model: plain or injected.
        input_shape: (channels, height, width).
        densities: measured share of essential outputs by layer name (`mask_densities`); layers that it
            does not name, and all layers without it, count with the configured ratio or pattern.

    Raises:
        InputError: `densities` names no injected layer, or a density is outside [0, 1].
    """
    rows: list[LayerBitOps] = []
    names = {module: name for name, module in model.named_modules()}
    injected = [name for module, name in names.items() if isinstance(module, NoisyLayer)]
    for name, density in (densities or {}).items():
        if name not in injected:
            raise unknown_choice("injected layer", name, injected)
        if not 0 <= density <= 1:
            raise InputError(f"density {density!r} of layer {name!r} is outside [0, 1]")

    def count(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        name = names[module]
        rows.append(_count_layer(name, module, tuple(output.shape[1:]), (densities or {}).get(name)))

    handles = [m.register_forward_hook(count) for m in names if isinstance(m, (nn.Conv2d, NoisyLayer))]
    reference = next(model.parameters(), torch.zeros(()))
    try:
        with torch.no_grad(), eval_mode(model), dense_mode(model):
            model(torch.zeros(1, *input_shape, device=reference.device, dtype=reference.dtype))
    finally:
        for handle in handles:
            handle.remove()
    return BitOps(tuple(rows))


def _count_layer(name: str, module: nn.Module, shape: tuple[int, ...], measured: float | None) -> LayerBitOps:
    weight = module.weight
    assert isinstance(weight, Tensor)
    outputs = prod(shape)
    macs = outputs * weight[0].numel()
    dense = float(macs * PRECISE_BITS**2)
    if not isinstance(module, NoisyLayer):
        return LayerBitOps(name=name, macs=macs, outputs=outputs, density=1.0, dense=dense, precise=dense,
                           approximate=0.0, projection=0.0, selection=0.0)  # fmt: skip
    injection = module.injection
    density = _nominal_density(injection, weight.shape[0]) if measured is None else Fraction(measured)
    if density == 1 and measured is None:  # nothing is injected, so nothing is approximated
        return LayerBitOps(name=name, macs=macs, outputs=outputs, density=1.0, dense=dense, precise=dense,
                           approximate=0.0, projection=0.0, selection=0.0)  # fmt: skip
    positions = outputs // weight.shape[0]
    input_bits = injection.bits if injection.quantize_projected else PRECISE_BITS
    additions = Fraction(positions * module.groups * module.rank * module.input_dimension, 3)
    return LayerBitOps(
        name=name,
        macs=macs,
        outputs=outputs,
        density=float(density),
        dense=dense,
        precise=float(density * macs * PRECISE_BITS**2),
        approximate=float(outputs * module.rank * injection.bits * input_bits),
        projection=float(additions * injection.bits),
        selection=float(outputs * PRECISE_BITS),
    )


def _nominal_density(injection: Injection, channels: int) -> Fraction:
    """The configured share; with a pattern that of whole groups and of a last, shorter one."""
    if injection.pattern is None:
        return injection.density
    pattern = Pattern.parse(injection.pattern)
    groups, rest = divmod(channels, pattern.group)
    return Fraction(groups * pattern.kept(pattern.group) + pattern.kept(rest), channels)
