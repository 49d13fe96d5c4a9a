"""Energy and area: sums by hand with prices of round numbers, and what holds of any prices."""

import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from hwsim.costs import Costs
from hwsim.counters import Counters
from hwsim.hardware import Hardware, load_hardware
from hwsim.layers import load_network
from hwsim.masks import random_mask
from hwsim.results import NetworkResult, utilisation
from hwsim.simulate import simulate_network
from hwsim.sram import Sram
from hwsim.technology import Entry, Technology, load_technology, technologies

CORE = load_hardware("unstructured")


class RoundMemory:
    """Prices that tell the two memories, and reading from writing."""

    def memory(self, bytes: int, word_bytes: int, ports: str) -> Sram:
        scale = {"rw": 1, "r_w": 100}[ports]
        return Sram(bytes, word_bytes, read_pj=2 * scale, write_pj=3 * scale, leakage_mw=5 * scale,
                    area_mm2=7 * scale, access_ns=1)  # fmt: skip


def priced(**prices: float) -> Technology:
    """All entries zero but these."""
    technology = load_technology("nangate45")
    entries = {name: Entry(value=prices.get(name, 0.0), source="test") for name in technology.entries()}
    return technology.model_copy(update={**entries, "sram": RoundMemory()})


def some_counters(seed: int = 0) -> Counters:
    rng = np.random.default_rng(seed)
    return Counters(**{field.name: int(rng.integers(1, 1000)) for field in fields(Counters)})


def result(hardware: Hardware = CORE, technology: str = "nangate45", seed: int = 0) -> NetworkResult:
    rng = np.random.default_rng(seed)
    layers = load_network("small_resnet")
    masks = {one.name: random_mask(one, rng, ratio=0.75) for one in layers}
    return simulate_network(layers, hardware, load_technology(technology), masks)


# --- by hand ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "entry", "operations"),
    [
        ("precise multiplications", "multiply_16x16_pj", {"multiplications_16x16": 7}),
        ("approximate multiplications", "multiply_4x16_pj", {"multiplications_4x16": 7}),
        ("accumulation", "add_32_pj", {"accumulations": 7}),
        ("projection", "add_4_pj", {"projection_additions": 7}),
        ("selection", "compare_16_pj", {"comparisons": 7}),
        ("dram", "dram_pj_per_byte", {"dram_weight_bytes": 4, "dram_input_bytes": 2, "dram_output_bytes": 1}),
    ],
)
def test_an_operation_costs_its_entry(part: str, entry: str, operations: dict[str, int]) -> None:
    energy = Costs(CORE, priced(**{entry: 3.0})).energy_pj(Counters(**operations))
    assert energy[part] == 21
    memories = ("weight memory", "activation memory") if part == "dram" else ()
    assert {name for name, value in energy.items() if value} == {part, *memories}


@pytest.mark.parametrize(
    ("operations", "written", "read"),
    [
        ({"accumulator_updates": 2}, 2 * 32, 2 * 32 * 3),  # 8 x 32 accumulators: 8 * 8 < 256 <= 8 * 8 * 8
        ({"weight_words_read": 2}, 2 * 256, 0),
        ({"row_words_read": 2}, 0, 2 * 256 * (2 + 1)),  # 16 rows: two levels; 8 latched words: one
        ({"input_words_read": 2}, 2 * 256, 0),
        ({"projected_words_read": 2}, 2 * 256, 0),
        ({"projection_words_read": 2, "output_words_written": 2, "projected_words_written": 2}, 0, 0),
    ],
)
def test_bits_of_registers(operations: dict[str, int], written: int, read: int) -> None:
    """16 lanes of 16 bits; bits are read through trees of 8:1 multiplexers."""
    counters = Counters(**operations)
    write, fetch = priced(register_bit_write_pj=1.0), priced(register_bit_read_pj=1.0)
    assert Costs(CORE, write).energy_pj(counters)["registers"] == written
    assert Costs(CORE, fetch).energy_pj(counters)["registers"] == read


@pytest.mark.parametrize(
    ("operations", "weights", "activations"),
    [
        ({"weight_words_read": 5}, 5 * 2, 0),
        ({"projection_entry_words_read": 5}, 5 * 2, 0),
        ({"input_words_read": 5, "projected_words_read": 6, "projection_words_read": 7}, 0, 18 * 200),
        ({"output_words_written": 5, "projected_words_written": 6}, 0, 11 * 300),
        ({"dram_weight_bytes": 64}, 2 * 3, 0),  # words of 32 bytes are written when they come
        ({"dram_input_bytes": 64}, 0, 2 * 300),
        ({"dram_output_bytes": 64}, 0, 2 * 200),
    ],
)
def test_words_of_memories(operations: dict[str, int], weights: float, activations: float) -> None:
    energy = Costs(CORE, priced()).energy_pj(Counters(**operations))
    assert (energy["weight memory"], energy["activation memory"]) == (weights, activations)


def test_memories_are_banks_of_the_design() -> None:
    """One port for a unit's weights; as many banks of activations as words a cycle, with two ports each."""
    technology = priced()
    weights, activations = Costs(CORE, technology).weight_memory, Costs(CORE, technology).activation_memory
    assert (weights.bytes, weights.word_bytes, weights.read_pj) == (64 * 1024, 32, 2)
    assert (activations.bytes, activations.word_bytes, activations.read_pj) == (512 * 1024 // 4, 32, 200)


SMALL = Hardware(name="small", vector_units=2, lanes=4, rows_per_unit=8, positions_per_tile=3,
                 run_ahead_positions=5, activation_words_per_cycle=6, projection_adders=11)  # fmt: skip
PARTS = {
    "multiplier": ("multipliers", 8),
    "add_32": ("accumulation", 4 * 8),  # a sum for each of four products of 4 bits
    "add_4": ("projection", 11),
    "compare_16": ("selection", 4 * 2),
    # accumulators, two row buffers for each row, latched inputs
    "register_bit": ("registers", 2 * 8 * 3 * 32 + 2 * 2 * 8 * 64 + 5 * 64),
}


@pytest.mark.parametrize("unit", PARTS)
def test_area_and_leakage_by_hand(unit: str) -> None:
    part, count = PARTS[unit]
    technology = priced(**{f"{unit}_area_um2": 2.0, f"{unit}_leakage_uw": 3.0})
    area = Costs(SMALL, technology).area_um2
    assert area.pop("weight memory") == 2 * 7e6
    assert area.pop("activation memory") == 6 * 700e6
    assert {name: value for name, value in area.items() if value} == {part: 2 * count}
    assert Costs(SMALL, technology).leakage_mw == pytest.approx(2 * 5 + 6 * 500 + 3 * count / 1000)


def test_a_unit_that_selects_from_groups_compares_all_pairs() -> None:
    grouped = SMALL.model_copy(update={"selection": "groups"})
    assert Costs(grouped, priced(compare_16_area_um2=1.0)).area_um2["selection"] == 2 * (8 * 7 / 2)


# --- any prices ------------------------------------------------------------------------------------------


def test_leakage_is_power_times_time() -> None:
    technology = load_technology("nangate45")
    energy = Costs(CORE, technology).energy_pj(Counters(cycles=1_000_000))
    assert energy["leakage"] * 1e-12 == pytest.approx(Costs(CORE, technology).leakage_mw * 1e-3 * 1e6 / 500e6)
    assert {part for part, value in energy.items() if value} == {"leakage"}


@pytest.mark.parametrize("name", technologies())
def test_energy_is_linear_in_counts_and_in_prices(name: str) -> None:
    technology = load_technology(name)
    a, b = some_counters(1), some_counters(2)
    both, first, second = (Costs(CORE, technology).energy_pj(counters) for counters in (a + b, a, b))
    assert both == pytest.approx({part: first[part] + second[part] for part in first})
    assert min(both.values()) > 0
    total = sum(first.values())
    shares = 0.0
    for entry, figure in technology.entries().items():
        if not entry.endswith(("_pj", "_per_byte")):
            continue
        changes = [
            sum(Costs(CORE, technology.model_copy(update={entry: scaled})).energy_pj(a).values()) - total
            for scaled in (Entry(value=figure.value * factor, source="test") for factor in (0, 2, 3))
        ]
        assert changes[1] == pytest.approx(-changes[0], abs=1e-6)
        assert changes[2] == pytest.approx(-2 * changes[0], abs=1e-6)
        shares -= changes[0]
    memories = first["weight memory"] + first["activation memory"] + first["leakage"]
    assert shares + memories == pytest.approx(total)


def test_what_costs_nothing_takes_no_energy() -> None:
    free = priced()
    nothing = {part: value for part, value in Costs(CORE, free).energy_pj(some_counters()).items() if value}
    assert set(nothing) == {"weight memory", "activation memory", "leakage"}
    assert set(Costs(CORE, load_technology("nangate45")).energy_pj(Counters()).values()) == {0}


def test_results_are_sums_of_their_layers_and_parts() -> None:
    found = result()
    assert found.counters == sum((one.counters for one in found.layers), Counters())
    assert found.joules == pytest.approx(
        sum(sum(one.energy_pj.values()) for one in found.layers) * 1e-12, rel=1e-12
    )
    assert found.seconds == found.cycles / 500e6
    assert found.energy_delay_joule_seconds == found.joules * found.seconds
    assert found.area_mm2 * 1e6 == pytest.approx(sum(found.area_um2.values()))
    assert found.operations == 2 * sum(one.layer.macs for one in found.layers)
    assert found.operations_per_joule * found.joules == pytest.approx(found.operations)
    starts = [one.start_cycle for one in found.layers]
    assert starts == list(np.cumsum([0, *(one.counters.cycles for one in found.layers)])[:-1])


def test_density_weighs_layers_by_their_outputs() -> None:
    layers = load_network("small_resnet")[:4]
    masks = {one.name: np.ones((one.positions, one.out_channels), dtype=np.bool_) for one in layers}
    masks[layers[0].name][:] = False
    masks[layers[3].name][:, ::2] = False
    found = simulate_network(layers, CORE, load_technology("nangate45"), masks)
    assert [one.density for one in found.layers] == [0, 1, 1, 0.5]
    kept = sum(int(mask.sum()) for mask in masks.values())
    assert found.density == pytest.approx(kept / sum(mask.size for mask in masks.values()))


@pytest.mark.parametrize("name", technologies())
def test_twice_the_clock_halves_time_and_leakage_only(name: str) -> None:
    slow = result(technology=name)
    double = result(CORE.model_copy(update={"clock_mhz": 1000.0}), technology=name)
    assert double.counters == slow.counters
    assert double.seconds == slow.seconds / 2
    assert double.energy_pj | {"leakage": 0} == slow.energy_pj | {"leakage": 0}
    assert double.energy_pj["leakage"] == pytest.approx(slow.energy_pj["leakage"] / 2)


def test_utilisation_is_one_where_all_elements_multiply_in_every_cycle() -> None:
    wide = replace(load_network("resnet18")[1], name="wide")
    nothing = simulate_network([wide], CORE, load_technology("nangate45"))
    assert nothing.utilisation == pytest.approx(1, abs=1e-3)
    assert nothing.utilisation < 1  # the pipeline drains


def test_four_short_products_use_an_element_as_one_long_does() -> None:
    assert utilisation(Counters(cycles=10, multiplications_4x16=4 * 256 * 10), CORE) == 1
    assert utilisation(Counters(cycles=10, multiplications_16x16=256 * 5), CORE) == 0.5


def test_dense_images_are_all_precise_and_each_is_asked_for() -> None:
    layers = load_network("small_resnet")[:2]
    one, three = (
        simulate_network(layers, CORE, load_technology("nangate45"), images=images) for images in (1, 3)
    )
    assert one.density == three.density == 1
    assert three.operations == 3 * one.operations == 6 * sum(layer.macs for layer in layers)
    assert three.counters.multiplications_16x16 == 3 * one.counters.multiplications_16x16


def test_equal_runs_give_equal_files(tmp_path: Path) -> None:
    for name in ("one", "two"):
        found = result()
        found.save_json(tmp_path / f"{name}.json")
        found.save_csv(tmp_path / f"{name}.csv")
    for kind in ("json", "csv"):
        assert (tmp_path / f"one.{kind}").read_bytes() == (tmp_path / f"two.{kind}").read_bytes()
    content = json.loads((tmp_path / "one.json").read_text())
    assert content["total"]["cycles"] == sum(one["counters"]["cycles"] for one in content["layers"])
    lines = (tmp_path / "one.csv").read_text().splitlines()
    assert len(lines) == 1 + len(found.layers) + 1
    assert lines[-1].startswith("total,")
