"""What fits into the memories of the chip, and what has to come from outside while.

Without a memory outside (`dram_bytes_per_cycle` is not given, as in the paper's hierarchy) all data are taken
to be in place. With one, weights of a layer that fit are loaded once, during the layer before if there is
room beside its weights; weights that do not fit pass through again for each tile. Weights fit if they fit
into the fullest bank: a vector unit reads its own bank only, so that a layer of few output channels has not
the banks of units without one. A layer whose maps do not
fit into the activation memory reads its input from outside and writes its output there. Shortcuts of
residual networks are not counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from hwsim.errors import InputError
from hwsim.hardware import Hardware
from hwsim.layers import Layer

VALUE_BYTES = 2


@dataclass(frozen=True)
class Transfers:
    """What one layer moves across the chip's border, in bytes."""

    preload: int
    """Weights that are there before the layer begins."""
    room_before: bool
    """Whether they can be loaded while the layer before runs."""
    streamed_weights: int
    """Weights that pass through while the layer runs."""
    inputs: int
    outputs: int

    @property
    def streamed(self) -> int:
        """All that is moved while the layer runs."""
        return self.streamed_weights + self.inputs + self.outputs


@dataclass(frozen=True)
class Placement:
    """When a layer runs, in cycles from the network's start."""

    start: int
    end: int
    stall: int
    """Cycles since the end of the layer before that went into waiting for data."""


def weight_bytes(layer: Layer, noisy: bool) -> int:
    """All weights of a layer: 16 bits each, and with noise 4 bits of W~ and 2 bits of the projection."""
    precise = layer.out_channels * layer.inputs_per_output * VALUE_BYTES
    if not noisy:
        return precise
    projection = layer.groups * layer.rank * layer.inputs_per_output
    return precise + ceil(layer.out_channels * layer.rank / 2) + ceil(projection / 4)


def bank_bytes(layer: Layer, hardware: Hardware, noisy: bool) -> int:
    """What a layer takes of the fullest bank of weights, that of the first vector unit, in whole words.

    A bank has the weights of its unit's output channels, each from a new word on, four channels of W~ in one;
    entries of the projection, which all units share, are spread over all banks.
    """
    rows = _rows_of_first_unit(layer.outputs_per_group, hardware)
    words = rows * ceil(layer.inputs_per_output / hardware.lanes)
    if noisy:
        blocks, rest = divmod(rows, hardware.rows_per_unit)
        quads = blocks * ceil(hardware.rows_per_unit / 4) + ceil(rest / 4)
        entries = ceil(layer.rank * layer.inputs_per_output / (4 * hardware.word_bytes))
        words += quads * ceil(layer.rank / hardware.lanes) + ceil(entries / hardware.vector_units)
    return layer.groups * words * hardware.word_bytes


def _rows_of_first_unit(channels: int, hardware: Hardware) -> int:
    """Output channels of the unit that has most: units take turns, by single channels or by groups."""
    turn = hardware.group_channels if hardware.selection == "groups" else 1
    rounds, rest = divmod(channels, turn * hardware.vector_units)
    return rounds * turn + min(rest, turn)


def tile_bytes(layer: Layer, hardware: Hardware, noisy: bool) -> int:
    """Activation memory that one tile needs: its inputs, outputs, and projected inputs of two tiles."""
    positions = hardware.positions_per_tile
    images = ceil(positions / layer.positions)
    rows_out = min(ceil(positions / layer.out_width) + 1, layer.out_height)
    rows_in = min(
        ceil((rows_out - 1) * layer.in_height / layer.out_height) + layer.kernel_height, layer.in_height
    )
    inputs = images * rows_in * layer.in_width * layer.in_channels
    projected = 2 * positions * layer.rank if noisy else 0
    return VALUE_BYTES * (inputs + projected + positions * layer.out_channels)


def check_capacity(layer: Layer, hardware: Hardware, noisy: bool) -> None:
    """Raise `InputError` if a memory is too small for one tile of `layer`."""
    needed = tile_bytes(layer, hardware, noisy)
    if needed > hardware.activation_bytes:
        raise InputError(
            f"activation_sram_kib {hardware.activation_sram_kib} of {hardware.name!r} is too small for one "
            f"tile: {hardware.positions_per_tile} positions of layer {layer.name!r} need "
            f"{ceil(needed / 1024)} KiB"
        )
    needed = 2 * hardware.rows_per_unit * hardware.word_bytes
    if needed > hardware.weight_bytes_per_unit:
        raise InputError(
            f"weight_sram_kib_per_unit {hardware.weight_sram_kib_per_unit} of {hardware.name!r} is too "
            f"small: two words for each of {hardware.rows_per_unit} rows need {ceil(needed / 1024)} KiB"
        )


def plan_transfers(
    layers: Sequence[Layer], hardware: Hardware, noisy: Sequence[bool], images: int
) -> tuple[Transfers, ...]:
    """What each layer of a network moves across the chip's border; `noisy` says which layers get noise."""
    capacity = hardware.weight_bytes_per_unit
    both = list(zip(layers, noisy, strict=True))
    weights = [weight_bytes(layer, approximated) for layer, approximated in both]
    banks = [bank_bytes(layer, hardware, approximated) for layer, approximated in both]
    occupied = [min(size, capacity) for size in banks]  # what does not fit passes through all of the memory
    maps_fit = [_maps_fit(layer, hardware, approximated, images) for layer, approximated in both]
    plan = []
    for i, layer in enumerate(layers):
        resident = banks[i] <= capacity
        tiles = ceil(images * layer.positions / hardware.positions_per_tile)
        from_outside = i == 0 or not (maps_fit[i - 1] and maps_fit[i])
        to_outside = i == len(layers) - 1 or not (maps_fit[i] and maps_fit[i + 1])
        plan.append(
            Transfers(
                preload=weights[i] if resident else 0,
                room_before=i > 0 and resident and occupied[i - 1] + banks[i] <= capacity,
                streamed_weights=0 if resident else weights[i] * tiles,
                inputs=VALUE_BYTES * images * layer.input_values if from_outside else 0,
                outputs=VALUE_BYTES * images * layer.output_values if to_outside else 0,
            )
        )
    return tuple(plan)


def _maps_fit(layer: Layer, hardware: Hardware, noisy: bool, images: int) -> bool:
    projected = 2 * hardware.positions_per_tile * layer.rank if noisy else 0
    values = images * (layer.input_values + layer.output_values) + projected
    return VALUE_BYTES * values <= hardware.activation_bytes


def place(
    cycles: Sequence[int], transfers: Sequence[Transfers], bytes_per_cycle: int
) -> tuple[Placement, ...]:
    """When layers run that take `cycles` each: one after the other, and not before their weights are there.

    The layer that runs has the bandwidth before the weights of the next one. Equal to
    `hwsim.reference.place`, which moves bytes cycle by cycle.
    """
    placed: list[Placement] = []
    free = start = end = 0
    for own, moved in zip(cycles, transfers, strict=True):
        before = end
        if moved.preload:
            load = max(free, start if moved.room_before else end)
            free = load + ceil(moved.preload / bytes_per_cycle)
        start = max(end, free)
        free = start + ceil(moved.streamed / bytes_per_cycle)
        end = max(start + own, free)
        placed.append(Placement(start, end, end - before - own))
    return tuple(placed)
