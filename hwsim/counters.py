"""What is counted while a layer runs. All counts are whole numbers, so that sums are exact."""

from dataclasses import dataclass, fields


@dataclass(frozen=True, kw_only=True)
class Counters:
    """Cycles, operations and memory accesses of a layer, or sums of them.

    Each vector unit is in each cycle in exactly one state: the counts of `unit_cycles` and
    `vector_units` times those of `stall_cycles` add up to `vector_units * cycles`.
    """

    cycles: int = 0
    """From the first to the last cycle of the layer."""

    # where the cycles went (cycles of the whole unit; they sum to `cycles`)
    precise_cycles: int = 0
    approximate_cycles: int = 0
    projection_stall_cycles: int = 0
    """Waiting for the projected inputs."""
    selection_stall_cycles: int = 0
    """Waiting for the mask: the last outputs leave the pipeline, then the selection takes its time."""
    drain_cycles: int = 0
    """The last outputs leave the pipeline."""
    dram_stall_cycles: int = 0
    """Waiting for weights or activations from outside."""

    # what vector units did in precise and approximate cycles (cycles of one unit)
    busy_precise: int = 0
    busy_approximate: int = 0
    alignment: int = 0
    """Units that hold no output channel of the block."""
    imbalance: int = 0
    """Units that have nothing left, or may not run further ahead, while others work."""
    activation_port: int = 0
    """All wait for inputs from the activation memory."""
    depth: int = 0
    """All wait until the accumulators can be used again."""

    # operations
    multiplications_16x16: int = 0
    multiplications_4x16: int = 0
    accumulations: int = 0
    """32-bit additions of products, in the adder trees and to the accumulators."""
    projection_additions: int = 0
    """4-bit additions of the projection."""
    comparisons: int = 0
    """16-bit comparisons of the selection."""

    # memory accesses: a word has as many values as a vector unit has lanes
    weight_words_read: int = 0
    input_words_read: int = 0
    """Inputs of the precise outputs."""
    projected_words_read: int = 0
    """Projected inputs of the approximate outputs."""
    projection_words_read: int = 0
    """Inputs that are projected."""
    projection_entry_words_read: int = 0
    """Entries of the projection, two bits each, from the weight memories: once for each tile."""
    projected_words_written: int = 0
    output_words_written: int = 0
    """Outputs; with noise, the approximate ones first and the precise ones over them."""
    accumulator_updates: int = 0
    """Reads and writes back of a 32-bit accumulator."""
    row_words_read: int = 0
    """Weight words out of the row buffers, one for each step of a vector unit."""

    # traffic with the memory outside, in bytes
    dram_weight_bytes: int = 0
    dram_input_bytes: int = 0
    dram_output_bytes: int = 0

    def __add__(self, other: "Counters") -> "Counters":
        return Counters(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    @property
    def stall_cycles(self) -> dict[str, int]:
        """Cycles in which the whole matrix-vector unit waited, by cause."""
        return {
            "projection": self.projection_stall_cycles,
            "selection": self.selection_stall_cycles,
            "drain": self.drain_cycles,
            "dram": self.dram_stall_cycles,
        }

    @property
    def unit_cycles(self) -> dict[str, int]:
        """What vector units did in the other cycles, in cycles of one unit."""
        return {
            "precise": self.busy_precise,
            "approximate": self.busy_approximate,
            "alignment": self.alignment,
            "imbalance": self.imbalance,
            "activation port": self.activation_port,
            "depth": self.depth,
        }

    @property
    def bitops(self) -> int:
        """Bit operations as the paper counts them: the product of two widths, the width of an addition."""
        return (
            256 * self.multiplications_16x16
            + 64 * self.multiplications_4x16
            + 4 * self.projection_additions
            + 16 * self.comparisons
        )

    @property
    def dram_bytes(self) -> int:
        """All bytes that cross the chip's border."""
        return self.dram_weight_bytes + self.dram_input_bytes + self.dram_output_bytes

    @property
    def activation_words_read(self) -> int:
        """All words read from the activation memory."""
        return self.input_words_read + self.projected_words_read + self.projection_words_read

    @property
    def activation_words_written(self) -> int:
        """All words written to the activation memory."""
        return self.projected_words_written + self.output_words_written


@dataclass(frozen=True)
class Pass:
    """A time that one part of the machine spends on one tile, in cycles from the layer's start."""

    part: str
    """"projection", "approximate" or "precise"."""
    tile: int
    start: int
    end: int


@dataclass(frozen=True)
class LayerTrace:
    """One layer, simulated."""

    counters: Counters
    passes: tuple[Pass, ...]
