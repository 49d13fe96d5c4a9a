"""Both engines, written independently of each other, agree on every count, pass and placement.

One steps through all cycles, item by item and byte by byte; the other is a closed form.
"""

from dataclasses import replace

import numpy as np
import pytest
from machines import pattern_mask, small_hardware, small_layer, some_mask

from hwsim import fast, memory, reference
from hwsim.counters import LayerTrace
from hwsim.hardware import Hardware
from hwsim.layers import Layer
from hwsim.masks import Mask, Pattern, random_mask
from hwsim.memory import Transfers
from hwsim.simulate import simulate_layer, simulate_network
from hwsim.technology import load_technology

CASES = 3_000


def sorted_passes(trace: LayerTrace) -> list[tuple[int, int, str, int]]:
    return sorted((one.start, one.end, one.part, one.tile) for one in trace.passes)


def assert_engines_agree(layer: Layer, hardware: Hardware, mask: Mask | None, images: int) -> LayerTrace:
    stepped = reference.simulate_group(layer, hardware, mask, images)
    computed = fast.simulate_group(layer, hardware, mask, images)
    assert computed.counters == stepped.counters, (layer, hardware, images)
    assert sorted_passes(computed) == sorted_passes(stepped), (layer, hardware, images)
    return stepped


@pytest.mark.parametrize("seed", range(6))
def test_random_cases(seed: int) -> None:
    """Masks of any density, dense runs, and more images than one; sizes rarely divide each other."""
    rng = np.random.default_rng(seed)
    for _ in range(CASES // 6):
        layer, hardware, images = small_layer(rng), small_hardware(rng), int(rng.integers(1, 3))
        mask = some_mask(rng, layer, images) if rng.random() < 0.85 else None
        assert_engines_agree(layer, hardware, mask, images)


@pytest.mark.parametrize(
    ("sizes", "machine"),
    [
        ({"out_channels": 3}, {"vector_units": 5}),  # fewer channels than units
        ({"out_height": 5, "out_width": 3}, {"positions_per_tile": 4}),  # a short last tile
        ({"out_height": 3, "out_width": 2}, {"positions_per_tile": 7}),  # one short tile
        ({"out_height": 4, "out_width": 4}, {"positions_per_tile": 4, "run_ahead_positions": 4}),
        ({}, {"run_ahead_positions": 1}),
        ({}, {"pipeline_depth_cycles": 0, "selection_latency_cycles": 0}),
        ({}, {"pipeline_depth_cycles": 30, "positions_per_tile": 2}),
        ({"kernel_height": 3, "in_channels": 6}, {"projection_adders": 1}),  # the projection decides
        ({"out_channels": 37}, {"selection": "groups", "group_channels": 2, "rows_per_unit": 6,
                                "vector_units": 3}),  # three groups in a unit, the last one short
        ({"out_channels": 5}, {"selection": "groups", "group_channels": 4, "rows_per_unit": 4,
                               "vector_units": 4}),
    ],
)  # fmt: skip
def test_corners(sizes: dict[str, int], machine: dict[str, object]) -> None:
    rng = np.random.default_rng(11)
    for _ in range(6):
        layer, hardware = small_layer(rng, **sizes), small_hardware(rng, **machine)
        empty = np.zeros((layer.positions, layer.out_channels), dtype=np.bool_)
        masks = [None, empty, ~empty, some_mask(rng, layer), some_mask(rng, layer)]
        for mask in masks:
            assert_engines_agree(layer, hardware, mask, 1)


def test_cases_reach_every_state_of_a_unit_and_every_stall() -> None:
    """So that what the engines agree on is all that can happen."""
    rng = np.random.default_rng(3)
    seen = dict[str, int]()
    for _ in range(300):
        layer = small_layer(rng)
        trace = fast.simulate_group(layer, small_hardware(rng), some_mask(rng, layer), 1)
        for name, value in (trace.counters.unit_cycles | trace.counters.stall_cycles).items():
            seen[name] = seen.get(name, 0) + (value > 0)
    assert all(count >= 5 for name, count in seen.items() if name != "dram"), seen
    assert seen["dram"] == 0


def test_grouped_convolutions_run_group_after_group() -> None:
    rng = np.random.default_rng(5)
    for _ in range(40):
        groups = int(rng.integers(2, 4))
        layer = small_layer(rng, groups=groups, out_channels=groups * int(rng.integers(1, 9)))
        hardware = small_hardware(rng, selection="threshold")
        mask = some_mask(rng, layer, 2)
        one = replace(
            layer,
            groups=1,
            in_channels=layer.in_channels // groups,
            out_channels=layer.outputs_per_group,
        )
        parts = [
            assert_engines_agree(one, hardware, part, 2).counters for part in np.split(mask, groups, axis=1)
        ]
        for engine in ("fast", "reference"):
            trace = simulate_layer(layer, hardware, mask, images=2, engine=engine)
            assert trace.counters == sum(parts[1:], parts[0])
            ends = [p.end for p in trace.passes if p.part == "precise"]
            assert ends == sorted(ends)
            assert ends[-1] == trace.counters.cycles - hardware.pipeline_depth_cycles


def test_structured_masks_through_the_checked_entry() -> None:
    rng = np.random.default_rng(6)
    for _ in range(40):
        hardware = small_hardware(rng, selection="groups")
        layer = small_layer(rng)
        kept = int(rng.integers(0, hardware.group_channels + 1))
        mask = pattern_mask(rng, layer, kept, hardware.group_channels)
        computed, stepped = (
            simulate_layer(layer, hardware, mask, engine=engine) for engine in ("fast", "reference")
        )
        assert computed.counters == stepped.counters


# --- weights and maps from outside -----------------------------------------------------------------------


def some_transfers(rng: np.random.Generator, first: bool) -> Transfers:
    def size() -> int:
        return int(rng.choice([0, 1, rng.integers(1, 20), rng.integers(1, 300)]))

    resident = bool(rng.random() < 0.7)
    return Transfers(
        preload=size() if resident else 0,
        room_before=bool(not first and resident and rng.random() < 0.6),
        streamed_weights=0 if resident else size(),
        inputs=size() if rng.random() < 0.4 else 0,
        outputs=size() if rng.random() < 0.4 else 0,
    )


@pytest.mark.parametrize("seed", range(4))
def test_placements(seed: int) -> None:
    rng = np.random.default_rng(100 + seed)
    for _ in range(600):
        count = int(rng.integers(1, 7))
        cycles = [int(n) for n in rng.integers(1, 60, count)]
        transfers = [some_transfers(rng, first=i == 0) for i in range(count)]
        bandwidth = int(rng.choice([1, 2, 3, 7, 16, 1000]))
        stepped = reference.place(cycles, transfers, bandwidth)
        assert memory.place(cycles, transfers, bandwidth) == stepped, (cycles, transfers, bandwidth)


@pytest.mark.parametrize("bandwidth", [None, 1, 5, 10_000])
@pytest.mark.parametrize("selection", ["threshold", "groups"])
def test_a_whole_network(bandwidth: int | None, selection: str) -> None:
    """Three layers, one of them dense, weights that fit and weights that do not."""
    rng = np.random.default_rng(8)
    hardware = Hardware(
        name="small", vector_units=2, lanes=8, positions_per_tile=4, pipeline_depth_cycles=5,
        projection_adders=50, selection=selection, weight_sram_kib_per_unit=1, activation_sram_kib=2,
        dram_bytes_per_cycle=bandwidth,
    )  # fmt: skip
    layers = [
        small_layer(rng, "first", in_channels=3, out_channels=16, kernel_height=2, kernel_width=2),
        small_layer(rng, "second", in_channels=16, out_channels=24, kernel_height=3, kernel_width=2),
        small_layer(rng, "third", in_channels=24, out_channels=8, kernel_height=1, kernel_width=1),
    ]
    masks = {one.name: random_mask(one, rng, pattern=Pattern(6, 8), images=2) for one in layers[:2]}
    technology = load_technology("nangate45")
    computed, stepped = (
        simulate_network(layers, hardware, technology, masks, images=2, engine=engine)
        for engine in ("fast", "reference")
    )
    assert computed == stepped
    assert (computed.counters.dram_stall_cycles > 0) == (bandwidth is not None)
    assert (computed.counters.dram_bytes > 0) == (bandwidth is not None)
