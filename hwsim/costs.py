"""Energy and area, part by part: counts times the entries of a technology.

A register file is read through a tree of 8:1 multiplexers; a read costs one of them for each level.
"""

from dataclasses import dataclass
from functools import cached_property
from math import ceil

from hwsim.counters import Counters
from hwsim.hardware import Hardware
from hwsim.sram import Sram
from hwsim.technology import Technology

ACCUMULATOR_BITS = 32
VALUE_BITS = 16
MULTIPLEXER_INPUTS = 8


@dataclass(frozen=True)
class Costs:
    """A design in a technology: what is looked up once, and priced for every layer."""

    hardware: Hardware
    technology: Technology

    @cached_property
    def weight_memory(self) -> Sram:
        """The bank of one vector unit: one port, for reading or writing."""
        return self.technology.memory(self.hardware.weight_bytes_per_unit, self.hardware.word_bytes, "rw")

    @cached_property
    def activation_memory(self) -> Sram:
        """One of `activation_words_per_cycle` banks: a port for reading and one for writing."""
        capacity = ceil(self.hardware.activation_bytes / self.hardware.activation_words_per_cycle)
        return self.technology.memory(capacity, self.hardware.word_bytes, "r_w")

    @cached_property
    def area_um2(self) -> dict[str, float]:
        """Area, by part, in square micrometres."""
        parts = {
            name: count * self._entries[f"{kind}_area_um2"]
            for name, (kind, count) in _instances(self.hardware).items()
        }
        weights, activations = self.weight_memory.area_mm2, self.activation_memory.area_mm2
        return parts | {
            "weight memory": self.hardware.vector_units * weights * 1e6,
            "activation memory": self.hardware.activation_words_per_cycle * activations * 1e6,
        }

    @cached_property
    def leakage_mw(self) -> float:
        """Power of a design that does nothing, in milliwatts."""
        instances = _instances(self.hardware).values()
        logic = sum(count * self._entries[f"{kind}_leakage_uw"] for kind, count in instances) / 1e3
        memories = self.hardware.vector_units * self.weight_memory.leakage_mw
        memories += self.hardware.activation_words_per_cycle * self.activation_memory.leakage_mw
        return logic + memories

    @cached_property
    def _entries(self) -> dict[str, float]:
        return {name: entry.value for name, entry in self.technology.entries().items()}

    def energy_pj(self, counters: Counters) -> dict[str, float]:
        """Energy of what was counted, by part, in picojoules."""
        t, hardware = self._entries, self.hardware
        weights, activations = self.weight_memory, self.activation_memory
        word_bits = VALUE_BITS * hardware.lanes
        rows, run_ahead = hardware.rows_per_unit, hardware.run_ahead_positions
        accumulators = rows * hardware.positions_per_tile
        latched = counters.input_words_read + counters.projected_words_read
        register_bits_written = (
            ACCUMULATOR_BITS * counters.accumulator_updates
            + word_bits * counters.weight_words_read  # into the row buffers
            + word_bits * latched
        )
        register_bits_read = ACCUMULATOR_BITS * counters.accumulator_updates * _levels(
            accumulators
        ) + word_bits * counters.row_words_read * (_levels(2 * rows) + _levels(run_ahead))
        weight_words = counters.weight_words_read + counters.projection_entry_words_read
        words_loaded = counters.dram_weight_bytes / hardware.word_bytes
        maps_loaded = counters.dram_input_bytes / hardware.word_bytes
        maps_sent = counters.dram_output_bytes / hardware.word_bytes
        return {
            "precise multiplications": counters.multiplications_16x16 * t["multiply_16x16_pj"],
            "approximate multiplications": counters.multiplications_4x16 * t["multiply_4x16_pj"],
            "accumulation": counters.accumulations * t["add_32_pj"],
            "projection": counters.projection_additions * t["add_4_pj"],
            "selection": counters.comparisons * t["compare_16_pj"],
            "registers": register_bits_written * t["register_bit_write_pj"]
            + register_bits_read * t["register_bit_read_pj"],
            "weight memory": weight_words * weights.read_pj + words_loaded * weights.write_pj,
            "activation memory": (counters.activation_words_read + maps_sent) * activations.read_pj
            + (counters.activation_words_written + maps_loaded) * activations.write_pj,
            "leakage": self.leakage_mw * counters.cycles / hardware.clock_hz * 1e9,
            "dram": counters.dram_bytes * t["dram_pj_per_byte"],
        }


def _instances(hardware: Hardware) -> dict[str, tuple[str, int]]:
    """How many of which unit each part has."""
    elements = hardware.vector_units * hardware.lanes
    word_bits = VALUE_BITS * hardware.lanes
    accumulators = hardware.vector_units * hardware.rows_per_unit * hardware.positions_per_tile
    row_buffers = hardware.vector_units * 2 * hardware.rows_per_unit * word_bits
    latches = hardware.run_ahead_positions * word_bits
    if hardware.selection == "threshold":
        comparators = 4 * hardware.vector_units  # a unit finishes four outputs in a cycle
    else:  # all pairs of the group that a unit has finished
        comparators = hardware.vector_units * hardware.group_channels * (hardware.group_channels - 1) // 2
    return {
        "multipliers": ("multiplier", elements),
        "accumulation": ("add_32", 4 * elements),  # four products of 4 bits have a sum each
        "projection": ("add_4", hardware.projection_adders),
        "selection": ("compare_16", comparators),
        "registers": ("register_bit", accumulators * ACCUMULATOR_BITS + row_buffers + latches),
    }


def _levels(entries: int) -> int:
    """Levels of a tree of multiplexers that chooses one of `entries`."""
    levels, reached = 0, 1
    while reached < entries:
        levels, reached = levels + 1, reached * MULTIPLEXER_INPUTS
    return levels
