"""What comes from outside of the chip: bytes by hand, when layers wait, and memories that are too small."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsim import reference
from hwsim.errors import InputError
from hwsim.hardware import Hardware, load_hardware
from hwsim.layers import Layer, load_network
from hwsim.masks import random_mask
from hwsim.memory import (
    Placement,
    Transfers,
    bank_bytes,
    check_capacity,
    place,
    plan_transfers,
    tile_bytes,
    weight_bytes,
)
from hwsim.results import NetworkResult
from hwsim.simulate import simulate_layer, simulate_network
from hwsim.technology import load_technology

# 6 x 4 x 3 x 3 and 10 x 6 weights; maps of 4 x 8 x 8, 6 x 8 x 8 and 10 x 8 x 8 values
FIRST = Layer(name="first", in_channels=4, out_channels=6, kernel_height=3, kernel_width=3,
              in_height=8, in_width=8, out_height=8, out_width=8)  # fmt: skip
SECOND = replace(
    FIRST, name="second", in_channels=6, out_channels=10, kernel_height=1, kernel_width=1, rank=2
)
MAPS = [2 * 4 * 64, 2 * 6 * 64, 2 * 10 * 64]
WEIGHTS = [2 * 6 * 36, 2 * 10 * 6]
CORE = load_hardware("unstructured")


def moved(hardware: Hardware, noisy: bool = False, images: int = 1) -> tuple[Transfers, ...]:
    return plan_transfers([FIRST, SECOND], hardware, [noisy, noisy], images)


def test_everything_fits() -> None:
    """Weights once, the second layer's during the first; the first input and the last output."""
    assert moved(CORE) == (
        Transfers(preload=WEIGHTS[0], room_before=False, streamed_weights=0, inputs=MAPS[0], outputs=0),
        Transfers(preload=WEIGHTS[1], room_before=True, streamed_weights=0, inputs=0, outputs=MAPS[2]),
    )


def test_noise_has_weights_of_its_own() -> None:
    """Four bits for each of n x k, two for each of k x d: 6 x 9 and 9 x 36; 10 x 2 and 2 x 6."""
    assert [one.preload for one in moved(CORE, noisy=True)] == [
        WEIGHTS[0] + 6 * 9 // 2 + 9 * 36 // 4,
        WEIGHTS[1] + 10 * 2 // 2 + 2 * 6 // 4,
    ]
    grouped = replace(FIRST, groups=2, rank=5)  # d = 18, in each of two groups
    assert weight_bytes(grouped, noisy=False) == 2 * 6 * 18
    assert weight_bytes(grouped, noisy=True) == 2 * 6 * 18 + 6 * 5 // 2 + 2 * 5 * 18 // 4


def test_a_layer_without_a_mask_needs_no_approximation() -> None:
    machine = CORE.model_copy(update={"dram_bytes_per_cycle": 8})
    mask = np.ones((64, 6), dtype=np.bool_)
    found = simulate_network([FIRST, SECOND], machine, load_technology("nangate45"), {"first": mask})
    first, second = (one.counters.dram_weight_bytes for one in found.layers)
    assert (first, second) == (weight_bytes(FIRST, noisy=True), WEIGHTS[1])


def test_images_share_weights() -> None:
    one, three = moved(CORE), moved(CORE, images=3)
    assert [t.preload for t in three] == [t.preload for t in one]
    assert [t.inputs + t.outputs for t in three] == [3 * (t.inputs + t.outputs) for t in one]


def test_maps_that_do_not_fit_together_go_outside_and_come_back() -> None:
    """Input and output of the second layer take 2048 bytes: they fit into 2 KiB, projections do not."""
    small = CORE.model_copy(update={"activation_sram_kib": 2})
    assert [(t.inputs, t.outputs) for t in moved(small)] == [(MAPS[0], 0), (0, MAPS[2])]
    both = [(MAPS[0], MAPS[1]), (MAPS[1], MAPS[2])]
    assert [(t.inputs, t.outputs) for t in moved(small, noisy=True)] == both
    assert [(t.inputs, t.outputs) for t in moved(small, images=2)] == [
        (2 * before, 2 * after) for before, after in both
    ]


def test_a_map_stays_only_if_it_fits_beside_those_before_and_after() -> None:
    """In 3 KiB: maps of 512 + 768, 768 + 2560, and 2560 + 256 bytes; the second pair does not fit."""
    middle, last = replace(SECOND, out_channels=20), replace(SECOND, in_channels=20, out_channels=2)
    small = CORE.model_copy(update={"activation_sram_kib": 3})
    plan = plan_transfers([FIRST, middle, last], small, [False] * 3, 1)
    assert [(one.inputs, one.outputs) for one in plan] == [(512, 768), (768, 2560), (2560, 256)]


def test_weights_that_do_not_fit_pass_through_for_every_tile() -> None:
    """8192 and 1200 bytes of weights in 8192, 4096 and 1024: beside each other, alone, not at all."""
    first = replace(FIRST, in_channels=64, kernel_height=2, kernel_width=2, out_channels=16, rank=1)
    second = replace(SECOND, in_channels=60)
    layers = [first, second]
    assert [weight_bytes(one, noisy=False) for one in layers] == [8192, 1200]
    machine = CORE.model_copy(update={"vector_units": 1, "positions_per_tile": 10})  # 7 tiles of 64 positions

    def weights(kib: int) -> list[tuple[int, bool, int]]:
        tight = machine.model_copy(update={"weight_sram_kib_per_unit": kib})
        plan = plan_transfers(layers, tight, [False, False], 1)
        return [(one.preload, one.room_before, one.streamed_weights) for one in plan]

    assert weights(10) == [(8192, False, 0), (1200, True, 0)]
    assert weights(9) == [(8192, False, 0), (1200, False, 0)]
    assert weights(8) == [(8192, False, 0), (1200, False, 0)]
    assert weights(2) == [(0, False, 7 * 8192), (1200, False, 0)]
    assert weights(1) == [(0, False, 7 * 8192), (0, False, 7 * 1200)]
    exact = [first, replace(second, in_channels=64, out_channels=16)]  # 8192 and 2048 bytes in 10 KiB
    full = machine.model_copy(update={"weight_sram_kib_per_unit": 10})
    assert plan_transfers(exact, full, [False, False], 1)[1].room_before
    two = machine.model_copy(update={"vector_units": 2, "weight_sram_kib_per_unit": 1})  # 2 KiB together
    assert plan_transfers(layers, two, [False, False], 3)[0].streamed_weights == 20 * 8192  # 192 positions
    assert plan_transfers(layers, two, [False, False], 3)[1].preload == 1200


def test_a_layer_has_the_banks_of_units_with_an_output_channel_only() -> None:
    """Six channels on sixteen units: one row of three words of 16 values in each of six banks.

    In the core for patterns the first unit has all six, two words of 32 values each: 768 bytes of 1024.
    """
    structured = load_hardware("structured")
    assert bank_bytes(FIRST, CORE, noisy=False) == 3 * 32
    assert bank_bytes(FIRST, structured, noisy=False) == 6 * 2 * 64
    # two quads of W~ (rank 9), 81 bytes of the projection: two words for all sixteen units
    assert bank_bytes(FIRST, structured, noisy=True) == (6 * 2 + 2 + 1) * 64
    tight = structured.model_copy(update={"weight_sram_kib_per_unit": 1})
    wide = replace(FIRST, in_channels=8)  # three words: sixteen banks hold them, the first does not
    for layer, resident in ((FIRST, True), (wide, False)):
        assert weight_bytes(layer, noisy=False) < tight.weight_bytes_per_unit * tight.vector_units
        [plan] = plan_transfers([layer], tight, [False], 1)
        assert (plan.preload > 0, plan.streamed_weights > 0) == (resident, not resident)


@given(
    channels=st.integers(1, 200),
    inputs=st.integers(1, 70),
    groups=st.integers(1, 3),
    units=st.sampled_from([1, 2, 3, 16]),
    rows=st.sampled_from([4, 8, 12]),
    group_channels=st.sampled_from([None, 2, 4]),
    noisy=st.booleans(),
)
def test_the_fullest_bank_is_found_channel_by_channel(
    channels: int, inputs: int, groups: int, units: int, rows: int, group_channels: int | None, noisy: bool
) -> None:
    """Every word of every channel is put into the bank of its unit, as the reference deals channels out."""
    part = replace(FIRST, in_channels=inputs, out_channels=channels, kernel_height=1, kernel_width=1, rank=0)
    layer = replace(part, in_channels=groups * inputs, out_channels=groups * channels, groups=groups)
    selection: dict[str, Any] = {}
    if group_channels is not None:
        selection = {"selection": "groups", "group_channels": group_channels}
    hardware = Hardware(name="mine", vector_units=units, lanes=16, rows_per_unit=rows, **selection)
    machine = reference._Machine(part, hardware, None, 1)
    banks = [0] * units
    for block in machine.blocks:
        for unit, own in enumerate(machine.rows_of(block)):
            banks[unit] += len(own) * len(machine.chunks(inputs))
            if noisy:
                banks[unit] += len(range(0, len(own), 4)) * len(machine.chunks(part.rank))
    if noisy:
        machine.begin_projection(0)
        for word in range(machine.count["projection_entry_words_read"]):
            banks[word % units] += 1
    assert bank_bytes(layer, hardware, noisy) == groups * max(banks) * hardware.word_bytes


def test_placement_by_hand() -> None:
    """Ten bytes a cycle. Loading takes 4 cycles; the maps of the first layer 3 of its 20, so that the next
    weights come from cycle 7 on: until 17, or 47. Without room they come when the first layer ends."""
    transfers = Transfers(preload=40, room_before=False, streamed_weights=0, inputs=25, outputs=0)
    for preload, room, second in (
        (100, True, Placement(24, 34, 0)),
        (400, True, Placement(47, 57, 23)),
        (95, False, Placement(34, 44, 10)),
    ):
        following = Transfers(preload=preload, room_before=room, streamed_weights=0, inputs=0, outputs=50)
        assert place([20, 10], [transfers, following], 10) == (Placement(4, 24, 4), second)
    slow = replace(transfers, inputs=250)
    assert place([20], [slow], 10) == (Placement(4, 29, 9),)  # 25 cycles for the maps, 20 to compute


def network(bandwidth: int | None, weights_kib: int = 4) -> NetworkResult:
    rng = np.random.default_rng(0)
    layers = load_network("small_resnet")
    masks = {one.name: random_mask(one, rng, ratio=0.9) for one in layers}
    hardware = CORE.model_copy(
        update={"dram_bytes_per_cycle": bandwidth, "weight_sram_kib_per_unit": weights_kib}
    )
    return simulate_network(layers, hardware, load_technology("nangate45"), masks)


def test_without_a_memory_outside_nothing_waits_for_it() -> None:
    counters = network(None).counters
    assert counters.dram_bytes == counters.dram_stall_cycles == 0


@pytest.mark.parametrize("weights_kib", [4, 64])
def test_more_bandwidth_is_never_slower_and_moves_the_same(weights_kib: int) -> None:
    free = network(None, weights_kib)
    runs = [network(bandwidth, weights_kib) for bandwidth in (1, 2, 3, 8, 64, 1_000, 10**9)]
    cycles = [run.cycles for run in runs]
    assert cycles == sorted(cycles, reverse=True)
    assert cycles[0] > 2 * cycles[-1]
    # one cycle for each load that there is no room for before
    assert 1 <= cycles[-1] - free.cycles == runs[-1].counters.dram_stall_cycles <= len(free.layers)
    if weights_kib == 64:
        assert cycles[-1] == free.cycles + 1
    assert len({run.counters.dram_bytes for run in runs}) == 1
    for run, bandwidth in zip(runs, (1, 2, 3, 8, 64, 1_000, 10**9), strict=True):
        assert run.cycles * bandwidth >= run.counters.dram_bytes
        assert run.cycles == free.cycles + run.counters.dram_stall_cycles
        moved = run.counters
        assert run.energy_pj["dram"] == pytest.approx(
            moved.dram_bytes * load_technology("nangate45").dram_pj_per_byte.value
        )


def test_a_layer_starts_when_the_one_before_has_ended_or_its_weights_are_there() -> None:
    found = network(8)
    end = 0
    for one in found.layers:
        assert one.start_cycle >= end
        # a layer's cycles are those since the end of the one before, its waiting included
        end += one.counters.cycles
        computing = one.counters.cycles - one.counters.dram_stall_cycles
        assert one.start_cycle + computing <= end
    assert found.cycles == end


# --- memories that are too small -------------------------------------------------------------------------


def test_bytes_of_a_tile_by_hand() -> None:
    """Ten of 8 x 8 positions lie in at most three rows; a 3 x 3 kernel then reads five rows."""
    machine = CORE.model_copy(update={"positions_per_tile": 10})
    plain = 2 * (5 * 8 * 4 + 10 * 6)
    assert tile_bytes(FIRST, machine, noisy=False) == plain
    assert tile_bytes(FIRST, machine, noisy=True) == plain + 2 * 2 * 10 * 9
    strided = replace(FIRST, in_height=16, in_width=16)  # rows 0, 2, 4 and two after
    assert tile_bytes(strided, machine, noisy=False) == 2 * (7 * 16 * 4 + 10 * 6)
    linear = replace(
        FIRST, in_height=1, in_width=1, out_height=1, out_width=1, kernel_height=1, kernel_width=1
    )
    assert tile_bytes(linear, machine, noisy=False) == 2 * (10 * 4 + 10 * 6)  # ten images


def test_memories_too_small_for_a_tile_are_refused() -> None:
    wide = replace(FIRST, in_channels=256)
    machine = CORE.model_copy(update={"activation_sram_kib": 16, "name": "tiny"})
    needed = tile_bytes(wide, machine, noisy=False)
    expected = (
        rf"activation_sram_kib 16 of 'tiny' .* 32 positions of layer 'first' need {-(-needed // 1024)} KiB"
    )
    with pytest.raises(InputError, match=expected):
        simulate_layer(wide, machine)
    enough = machine.model_copy(update={"activation_sram_kib": -(-needed // 1024)})
    assert simulate_layer(wide, enough).counters.cycles > 0
    with pytest.raises(InputError, match="activation_sram_kib"):
        simulate_layer(wide, enough, np.ones((64, 6), dtype=np.bool_))


def test_weight_memories_hold_two_words_of_every_row() -> None:
    machine = CORE.model_copy(update={"weight_sram_kib_per_unit": 1, "lanes": 32})
    check_capacity(FIRST, machine, noisy=True)  # 2 x 8 words of 64 bytes
    with pytest.raises(
        InputError, match=r"weight_sram_kib_per_unit 1 of 'unstructured' .* 9 rows need 2 KiB"
    ):
        check_capacity(FIRST, machine.model_copy(update={"rows_per_unit": 9}), noisy=True)
