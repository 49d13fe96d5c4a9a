"""More work never takes less, better parts never take more, and places that are alike can be exchanged."""

from dataclasses import replace

import numpy as np
import pytest
from machines import small_hardware, small_layer, some_mask

from hwsim import fast
from hwsim.costs import Costs
from hwsim.counters import Counters
from hwsim.hardware import Hardware
from hwsim.layers import Layer
from hwsim.masks import Mask
from hwsim.technology import load_technology

CASES = 400


def run(layer: Layer, hardware: Hardware, mask: Mask | None, images: int = 1) -> Counters:
    return fast.simulate_group(layer, hardware, mask, images).counters


def test_one_more_essential_neuron_never_saves_time_or_energy() -> None:
    rng = np.random.default_rng(30)
    technology = load_technology("nangate45")
    slower = 0
    for _ in range(CASES):
        layer, hardware = small_layer(rng), small_hardware(rng)
        priced = hardware.model_copy(update={"lanes": 16})  # the table has words of 32 bytes
        mask = some_mask(rng, layer)
        free = np.argwhere(~mask)
        if not len(free):
            continue
        more = mask.copy()
        more[tuple(free[rng.integers(len(free))])] = True
        before, after = run(layer, hardware, mask), run(layer, hardware, more)
        assert after.precise_cycles >= before.precise_cycles
        assert after.cycles >= before.cycles
        slower += after.precise_cycles > before.precise_cycles
        cheap, dear = (Costs(priced, technology).energy_pj(run(layer, priced, m)) for m in (mask, more))
        assert all(dear[part] >= cheap[part] for part in cheap)
        assert sum(dear.values()) > sum(cheap.values())
    assert slower > CASES / 20


@pytest.mark.parametrize(
    ("part", "better"),
    [
        ("run_ahead_positions", +1),
        ("activation_words_per_cycle", +1),
        ("projection_adders", +1),
        ("pipeline_depth_cycles", -1),
        ("selection_latency_cycles", -1),
    ],
)
def test_a_better_part_never_costs_time(part: str, better: int) -> None:
    rng = np.random.default_rng(31)
    faster = 0
    for _ in range(CASES):
        narrow = {part: 1} if part == "activation_words_per_cycle" else {}  # else it rarely matters
        layer, hardware = small_layer(rng), small_hardware(rng, **narrow)
        changed = getattr(hardware, part) + better * int(rng.integers(1, 8))
        improved = hardware.model_copy(update={part: max(0, changed)})
        mask = some_mask(rng, layer)
        before, after = run(layer, hardware, mask), run(layer, improved, mask)
        assert after.cycles <= before.cycles
        assert after.precise_cycles <= before.precise_cycles
        faster += after.cycles < before.cycles
    assert faster > CASES / 40


def test_tiles_can_change_places() -> None:
    """Only what tiles wait for each other depends on their order."""
    rng = np.random.default_rng(32)
    for _ in range(CASES // 2):
        hardware = small_hardware(rng)
        tile = hardware.positions_per_tile
        layer = small_layer(rng, out_height=tile, out_width=int(rng.integers(2, 6)))
        mask = some_mask(rng, layer)
        tiles = mask.reshape(-1, tile, layer.out_channels)
        mixed = rng.permutation(tiles).reshape(mask.shape)
        found, expected = run(layer, hardware, mixed), run(layer, hardware, mask)
        waits = {"cycles": 0, "projection_stall_cycles": 0, "selection_stall_cycles": 0}
        assert replace(found, **waits) == replace(expected, **waits)


def test_channels_of_a_unit_can_change_places() -> None:
    """And whole units, where all hold as many; only words of outputs are made of other channels then."""
    rng = np.random.default_rng(33)
    for _ in range(CASES // 2):
        hardware = small_hardware(rng, selection="threshold")
        blocks, units = int(rng.integers(1, 3)), hardware.vector_units
        layer = small_layer(rng, out_channels=blocks * hardware.rows_per_block)
        mask = some_mask(rng, layer)
        slots = mask.reshape(-1, blocks, hardware.rows_per_unit, units)
        within = slots[:, :, rng.permutation(hardware.rows_per_unit)]
        across = slots[..., rng.permutation(units)]
        expected = replace(run(layer, hardware, mask), output_words_written=0)
        for mixed in (within, across):
            found = run(layer, hardware, mixed.reshape(mask.shape))
            assert replace(found, output_words_written=0) == expected


def test_images_are_positions() -> None:
    """Two images of n positions cost as much as one of 2 n."""
    rng = np.random.default_rng(34)
    for _ in range(100):
        layer, hardware = small_layer(rng), small_hardware(rng)
        mask = some_mask(rng, layer, images=2)
        high = replace(layer, out_height=2 * layer.out_height)
        assert run(layer, hardware, mask, 2) == run(high, hardware, mask, 1)
