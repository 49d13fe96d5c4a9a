"""What must hold of cycles and counts, by theory: closed forms, identities, bounds, monotony, symmetries."""

from dataclasses import asdict, replace
from itertools import product
from math import ceil

import numpy as np
import pytest
import torch
from machines import pattern_mask, small_hardware, small_layer, some_mask
from torch import nn

from hwsim import fast
from hwsim.counters import Counters
from hwsim.hardware import Hardware, load_hardware
from hwsim.layers import Layer, load_network
from hwsim.masks import Mask, random_mask, unpack
from hwsim.simulate import simulate_layer
from nenni_core import Injection, bitops, inject, mask_densities, masks, pack_mask
from nenni_core.shapes import layer_shapes

CASES = 300


def run(layer: Layer, hardware: Hardware, mask: Mask | None, images: int = 1) -> Counters:
    return fast.simulate_group(layer, hardware, mask, images).counters


def some_case(rng: np.random.Generator, **fixed: object) -> tuple[Layer, Hardware, Mask, int]:
    layer, images = small_layer(rng), int(rng.integers(1, 3))
    return layer, small_hardware(rng, **fixed), some_mask(rng, layer, images), images


def sizes_of(total: int, part: int) -> list[int]:
    return [min(part, total - start) for start in range(0, total, part)]


def step_cycles(positions: int, items_per_position: int, hardware: Hardware) -> int:
    """One chunk in which a unit has most to do, at all positions the same: the longest of three times."""
    return max(
        positions * items_per_position,
        ceil(positions / hardware.activation_words_per_cycle),
        hardware.pipeline_depth_cycles,
    )


# --- closed forms ----------------------------------------------------------------------------------------


def dense_cycles(layer: Layer, hardware: Hardware) -> int:
    tiles = sizes_of(layer.positions, hardware.positions_per_tile)
    blocks = sizes_of(layer.out_channels, hardware.rows_per_block)
    steps = sum(step_cycles(t, ceil(b / hardware.vector_units), hardware) for t, b in product(tiles, blocks))
    return ceil(layer.inputs_per_output / hardware.lanes) * steps + hardware.pipeline_depth_cycles


@pytest.mark.parametrize(("network", "cycles"), [("resnet18", 2_171_280), ("wrn34_10", 26_012_328)])
def test_dense_networks_take_what_the_closed_form_says(network: str, cycles: int) -> None:
    """And not much more than one 16 x 16 product in every element in every cycle."""
    core = load_hardware("unstructured")
    found = [simulate_layer(layer, core).counters.cycles for layer in load_network(network)]
    assert found == [dense_cycles(layer, core) for layer in load_network(network)]
    assert sum(found) == cycles
    least = sum(layer.macs for layer in load_network(network)) / (core.vector_units * core.lanes)
    assert least < cycles < 1.001 * least


def test_random_dense_layers_take_what_the_closed_form_says() -> None:
    rng = np.random.default_rng(20)
    for _ in range(CASES):
        layer, hardware = small_layer(rng), small_hardware(rng, selection="threshold")
        assert run(layer, hardware, None).cycles == dense_cycles(layer, hardware)


def test_run_ahead_of_a_tile_sums_before_the_maximum_and_lockstep_after() -> None:
    """Of one chunk, where neither the pipeline nor the memory of the inputs makes a unit wait."""
    rng = np.random.default_rng(21)
    differ = 0
    for _ in range(CASES):
        layer, hardware, mask, _ = some_case(rng, selection="threshold")
        layer = replace(layer, in_channels=1, kernel_height=1, kernel_width=1)
        mask = mask[: layer.positions]
        hardware = hardware.model_copy(
            update={"pipeline_depth_cycles": 0, "activation_words_per_cycle": layer.positions}
        )
        free = lockstep = 0
        starts = range(0, layer.positions, hardware.positions_per_tile)
        firsts = range(0, layer.out_channels, hardware.rows_per_block)
        for start, first in product(starts, firsts):
            part = mask[start:][: hardware.positions_per_tile, first : first + hardware.rows_per_block]
            units = [part[:, unit :: hardware.vector_units].sum(1) for unit in range(hardware.vector_units)]
            free += max(int(unit.sum()) for unit in units)
            lockstep += int(np.max(units, axis=0).sum())
        differ += free < lockstep
        for window, expected in ((hardware.positions_per_tile, free), (10**12, free), (1, lockstep)):
            machine = hardware.model_copy(update={"run_ahead_positions": window})
            assert run(layer, machine, mask).precise_cycles == expected
    assert differ > CASES / 10


def test_structured_masks_take_what_the_closed_form_says() -> None:
    """Every group keeps as many, so that only the number of groups of the fullest unit counts."""
    rng = np.random.default_rng(22)
    for _ in range(CASES):
        hardware = small_hardware(rng, selection="groups")
        group, kept = hardware.group_channels, int(rng.integers(1, hardware.group_channels + 1))
        layer = small_layer(rng, out_channels=group * int(rng.integers(1, 12)))
        mask = pattern_mask(rng, layer, kept, group)
        blocks = sizes_of(layer.out_channels // group, hardware.rows_per_block // group)
        tiles = sizes_of(layer.positions, hardware.positions_per_tile)
        steps = sum(
            step_cycles(t, kept * ceil(b / hardware.vector_units), hardware)
            for t, b in product(tiles, blocks)
        )
        counters = simulate_layer(layer, hardware, mask).counters
        assert counters.precise_cycles == ceil(layer.inputs_per_output / hardware.lanes) * steps
        if kept == group:
            assert counters.precise_cycles == simulate_layer(layer, hardware).counters.precise_cycles


def test_all_and_nothing() -> None:
    rng = np.random.default_rng(23)
    for _ in range(CASES):
        layer, hardware, mask, images = some_case(rng)
        nothing = run(layer, hardware, np.zeros_like(mask), images)
        everything = run(layer, hardware, np.ones_like(mask), images)
        plain = run(layer, hardware, None, images)
        assert (nothing.precise_cycles, nothing.multiplications_16x16, nothing.input_words_read) == (0, 0, 0)
        assert nothing.approximate_cycles == everything.approximate_cycles > 0
        for name in ("precise_cycles", "busy_precise", "multiplications_16x16", "input_words_read"):
            assert getattr(everything, name) == getattr(plain, name) > 0
        assert plain.approximate_cycles == plain.comparisons == plain.projection_additions == 0


# --- identities and bounds -------------------------------------------------------------------------------


def test_operations_are_those_of_the_mask() -> None:
    rng = np.random.default_rng(24)
    for _ in range(CASES):
        layer, hardware, mask, images = some_case(rng, selection="threshold")
        counters = run(layer, hardware, mask, images)
        positions, d = images * layer.positions, layer.inputs_per_output
        assert counters.multiplications_16x16 == mask.sum() * d
        assert counters.multiplications_4x16 == positions * layer.out_channels * layer.rank
        assert counters.accumulations == counters.multiplications_16x16 + counters.multiplications_4x16
        entries = layer.rank * d  # of P; a third of them is not 0, but at least one
        assert abs(3 * counters.projection_additions - positions * entries) <= positions * (
            2 if entries < 2 else 1
        )
        assert counters.comparisons == positions * layer.out_channels
        assert run(layer, hardware, None, images).multiplications_16x16 == images * layer.macs


def test_every_vector_unit_is_in_one_state_in_every_cycle() -> None:
    rng = np.random.default_rng(25)
    for _ in range(CASES):
        layer, hardware, mask, images = some_case(rng)
        for counters in (run(layer, hardware, mask, images), run(layer, hardware, None, images)):
            working, stalls = sum(counters.unit_cycles.values()), sum(counters.stall_cycles.values())
            assert counters.cycles == counters.precise_cycles + counters.approximate_cycles + stalls
            assert working + hardware.vector_units * stalls == hardware.vector_units * counters.cycles
            assert min(asdict(counters).values()) >= 0


def test_the_projection_s_entries_are_read_once_for_a_tile() -> None:
    """16 x 40 entries of two bits are 160 bytes: 20 words of 8 bytes, whatever the number of positions."""
    layer = Layer(
        name="conv", in_channels=40, out_channels=8, kernel_height=1, kernel_width=1,
        in_height=5, in_width=2, out_height=5, out_width=2, rank=16,
    )  # fmt: skip
    hardware = load_hardware("unstructured").model_copy(update={"lanes": 4, "positions_per_tile": 4})
    mask = np.zeros((10, 8), dtype=np.bool_)
    assert run(layer, hardware, mask).projection_entry_words_read == 3 * 20
    assert run(layer, hardware, None).projection_entry_words_read == 0


def assert_above_the_roof(counters: Counters, hardware: Hardware, ports: int) -> None:
    elements, words = hardware.vector_units * hardware.lanes, hardware.activation_words_per_cycle
    products = counters.multiplications_16x16 + counters.multiplications_4x16 / 4
    assert counters.cycles * elements >= products
    passes = counters.precise_cycles + counters.approximate_cycles
    assert passes * words >= counters.input_words_read + counters.projected_words_read
    assert counters.cycles * words >= counters.projection_words_read
    assert counters.cycles * hardware.projection_adders >= counters.projection_additions
    assert counters.cycles * hardware.vector_units >= counters.weight_words_read
    assert counters.cycles * words >= ports


def test_no_machine_beats_its_parts() -> None:
    """Bounds by multipliers, adders, and words of the memories; a unit's weights come a word at a time."""
    rng = np.random.default_rng(26)
    for _ in range(CASES):
        layer, hardware, mask, images = some_case(rng)
        assert_above_the_roof(run(layer, hardware, mask, images), hardware, 0)
        nothing = run(layer, hardware, np.zeros_like(mask), images)  # all writes are of the approximate pass
        written = nothing.output_words_written
        assert nothing.approximate_cycles * hardware.activation_words_per_cycle >= written
        dense = run(layer, hardware, None, images)
        assert_above_the_roof(dense, hardware, dense.activation_words_read)


@pytest.mark.parametrize("ratio", [0.5, 0.99])
@pytest.mark.parametrize("network", ["resnet18", "wrn34_10"])
def test_the_shipped_core_has_ports_for_all_that_is_read_and_written(network: str, ratio: float) -> None:
    """Inputs that are projected too, which the simulator does not make wait for the port; layer by layer."""
    core, rng = load_hardware("unstructured"), np.random.default_rng(0)
    for layer in load_network(network):
        counters = simulate_layer(layer, core, random_mask(layer, rng, ratio=ratio)).counters
        for words in (counters.activation_words_read, counters.activation_words_written):
            assert_above_the_roof(counters, core, words)


# --- bit operations, as the training side counts them ----------------------------------------------------


@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv2d(3, 10, 3, padding=1),
        nn.Conv2d(4, 9, 3, stride=2),
        nn.Conv2d(5, 7, 1),  # k * d = 10, of which 3 are not 0
        nn.Conv2d(7, 7, 1),  # k * d = 14, of which 5 are not 0
        nn.Conv2d(4, 8, 1, groups=2),  # k * d = 2 in each group
        nn.Conv2d(6, 12, 3, groups=2, dilation=2),
    ],
)
def test_bit_operations_are_those_of_the_injected_model(convolution: nn.Conv2d) -> None:
    """Exactly, where a third of the projection is a whole number; else but for its rounding."""
    noisy = inject(nn.Sequential(convolution), Injection(ratio=0.8))
    images = torch.rand(3, convolution.in_channels, 7, 9, generator=torch.Generator().manual_seed(0))
    (shape,) = layer_shapes(noisy, tuple(images.shape[1:]))
    layer = Layer(**asdict(shape))
    mask = unpack(pack_mask(masks(noisy, images)["0"]), layer.out_channels)
    counted = simulate_layer(layer, load_hardware("unstructured"), mask, images=3).counters.bitops
    expected = 3 * bitops(noisy, tuple(images.shape[1:]), mask_densities(noisy, [images])).total
    entries = layer.rank * layer.inputs_per_output
    rounding = {0: 0.0, 1: 1 / 3, 2: 1 / 3}[entries % 3] * 4 * 3 * layer.positions * layer.groups
    assert counted == pytest.approx(expected, rel=1e-12, abs=rounding * (1 + 1e-9))
    if entries % 3:
        assert abs(counted - expected) == pytest.approx(rounding)
