"""Bit operations: what a network costs, dense and with noise (paper tables 1, 2 and 4).

A b1 x b2 bit multiplication counts b1 * b2, a b-bit addition b: sixteen BitOPs are four 4-bit additions
or one 4-bit multiplication (note of paper figure 5). A precise multiply-accumulate is 16 x 16 bits, an
approximate one 4 x 16; the projection needs one 4-bit addition for each of the k * d / 3 entries of P
that are expected to be non-zero, and every output neuron one 16-bit comparison with the threshold. Of the
readings that the printed costs allow this is the one that gives all of their ratios. What other defences
do beside their convolutions is counted by the modules that do it (`CountsOperations`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from math import prod
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from nenni_core.errors import InputError, unknown_choice
from nenni_core.injection import Injection, Pattern
from nenni_core.layers import NoisyLayer
from nenni_core.tracing import Hook, trace

PRECISE_BITS = 16
MULTIPLICATION, ADDITION = float(PRECISE_BITS**2), float(PRECISE_BITS)
"""BitOPs of one precise operation; a comparison counts as an addition."""

UNIFORM_SAMPLE = ADDITION
"""BitOPs of one uniform number: a step of a shift register."""

GAUSSIAN_SAMPLE = UNIFORM_SAMPLE + 3 * MULTIPLICATION + 2 * ADDITION
"""BitOPs of one standard normal number by the method of Box and Muller.

A pair needs two uniform numbers, ln, sqrt, cos and sin, each read from a table and interpolated (one
multiplication and one addition), and two products: half of that for each number. RSE, which multiplies it
by a standard deviation and adds it, then costs 0.5% of a dense ResNet-18; the paper prints 2.61 for 2.60,
which is anything up to 0.8%.
"""


@runtime_checkable
class CountsOperations(Protocol):
    """A module with operations of its own beside those of the layers inside it, such as drawing noise."""

    def own_bitops(self, input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> float:
        """BitOPs for one image; shapes are those of its input and output without the batch axis."""
        ...


@runtime_checkable
class SparseWeights(Protocol):
    """A module that runs `layer` with a part of its weights."""

    layer: nn.Module

    def weight_density(self) -> float:
        """The share of the weights of `layer` that take part, in [0, 1]."""
        ...


@runtime_checkable
class CountsMultiplications(Protocol):
    """A module that multiplies by weights of its own, as a dense layer of that shape does as well."""

    def own_macs(self, input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> int:
        """Multiply-accumulates for one image; shapes as in `CountsOperations`."""
        ...


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
    """Comparisons with the threshold; for neurons drawn at random, the draws too."""

    @property
    def total(self) -> float:
        """All that the layer costs with noise."""
        return self.precise + self.approximate + self.projection + self.selection


@dataclass(frozen=True)
class BitOps:
    """Cost of a network for one image."""

    layers: tuple[LayerBitOps, ...]
    noise: float = 0.0
    """What modules do beside that: drawing and adding noise, choosing winners."""

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the dense network."""
        return sum(layer.macs for layer in self.layers)

    @property
    def dense(self) -> float:
        """BitOPs of the dense network, all its weights and no noise."""
        return sum(layer.dense for layer in self.layers)

    @property
    def total(self) -> float:
        """BitOPs with all noise; equal to `dense` for a plain model."""
        return sum(layer.total for layer in self.layers) + self.noise

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

    A module of another kind that multiplies as a convolution does (`CountsMultiplications`) is one of them.
    Added is what its other modules do by themselves (`CountsOperations`), for one forward pass of one image;
    what is drawn once for a whole batch counts as if it were drawn for this image alone. Weights that take
    no part (`SparseWeights`) are not multiplied by; an injected layer's approximation has all of its own.

    Args:
        model: plain or injected.
        input_shape: (channels, height, width).
        densities: measured share of essential outputs by layer name (`mask_densities`); layers that it
            does not name, and all layers without it, count with the configured ratio or pattern. A layer
            that is configured to have no noise is dense whatever is measured.

    Raises:
        InputError: `densities` names no injected layer, or a density is outside [0, 1].
    """
    rows: list[LayerBitOps] = []
    others: list[float] = []
    weights = {id(m.layer): m.weight_density() for m in model.modules() if isinstance(m, SparseWeights)}
    names = {module: name for name, module in model.named_modules()}
    injected = [name for module, name in names.items() if isinstance(module, NoisyLayer)]
    for name, density in (densities or {}).items():
        if name not in injected:
            raise unknown_choice("injected layer", name, injected)
        if not 0 <= density <= 1:
            raise InputError(f"density {density!r} of layer {name!r} is outside [0, 1]")

    def count(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        name = names[module]
        row = _count_layer(name, module, tuple(output.shape[1:]), (densities or {}).get(name))
        rows.append(replace(row, precise=row.precise * weights.get(id(module), 1.0)))

    def count_multiplications(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(module, CountsMultiplications)
        shapes = tuple(inputs[0].shape[1:]), tuple(output.shape[1:])
        rows.append(_dense_layer(names[module], module.own_macs(*shapes), prod(shapes[1])))

    def count_own(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(module, CountsOperations)
        others.append(module.own_bitops(tuple(inputs[0].shape[1:]), tuple(output.shape[1:])))

    hooks: list[tuple[nn.Module, Hook]] = []
    hooks += [(m, count) for m in names if isinstance(m, (nn.Conv2d, NoisyLayer))]
    hooks += [(m, count_multiplications) for m in names if hasattr(m, "own_macs")]
    hooks += [(m, count_own) for m in names if hasattr(m, "own_bitops")]
    trace(model, input_shape, hooks)
    return BitOps(tuple(rows), noise=sum(others, 0.0))


def _dense_layer(name: str, macs: int, outputs: int) -> LayerBitOps:
    dense = macs * MULTIPLICATION
    return LayerBitOps(name=name, macs=macs, outputs=outputs, density=1.0, dense=dense, precise=dense,
                       approximate=0.0, projection=0.0, selection=0.0)  # fmt: skip


def _count_layer(name: str, module: nn.Module, shape: tuple[int, ...], measured: float | None) -> LayerBitOps:
    weight = module.weight
    assert isinstance(weight, Tensor)
    outputs = prod(shape)
    macs = outputs * weight[0].numel()
    if not isinstance(module, NoisyLayer):
        return _dense_layer(name, macs, outputs)
    injection = module.injection
    nominal = _nominal_density(injection, weight.shape[0])
    if nominal == 1:  # nothing is injected, so nothing is approximated
        return _dense_layer(name, macs, outputs)
    density = nominal if measured is None else Fraction(measured)
    positions = outputs // weight.shape[0]
    input_bits = injection.bits if injection.quantize_projected else PRECISE_BITS
    additions = Fraction(positions * module.groups * module.rank * module.input_dimension, 3)
    return LayerBitOps(
        name=name,
        macs=macs,
        outputs=outputs,
        density=float(density),
        dense=macs * MULTIPLICATION,
        precise=float(density * macs * PRECISE_BITS**2),
        approximate=float(outputs * module.rank * injection.bits * input_bits),
        projection=float(additions * injection.bits),
        selection=float(outputs * (PRECISE_BITS + (UNIFORM_SAMPLE if injection.target == "random" else 0))),
    )


def _nominal_density(injection: Injection, channels: int) -> Fraction:
    """The configured share; with a pattern that of whole groups and of a last, shorter one."""
    if injection.pattern is None:
        return injection.density
    pattern = Pattern.parse(injection.pattern)
    groups, rest = divmod(channels, pattern.group)
    return Fraction(groups * pattern.kept(pattern.group) + pattern.kept(rest), channels)
