"""The accelerator: what a design has of everything, and how it is written down."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from hwsim.errors import unknown_choice
from hwsim.reading import read_model

CORES = Path(__file__).parent / "cores"
"""Designs that come with the simulator; one `.yaml` file for each."""

Count = Annotated[int, Field(ge=1, strict=True)]
Cycles = Annotated[int, Field(ge=0, strict=True)]


class Hardware(BaseModel):
    """One matrix-vector unit (MVU) with its memories. Units stand in the names; a value has 16 bits.

    The MVU is made of `vector_units`, each with `lanes` processing elements along the dot product. An element
    multiplies 16 x 16 bits once, or one 16-bit value by four 4-bit weights of different output channels, in
    each cycle. Weights lie in one memory bank for each vector unit; inputs are shared by all of them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    title: str = ""
    vector_units: Count = Field(description="vector units")
    lanes: Count = Field(description="processing elements of a vector unit, along the dot product")
    rows_per_unit: Count = Field(default=8, description="output channels that a vector unit holds at a time")
    positions_per_tile: Count = Field(default=32, description="output positions that are computed together")
    pipeline_depth_cycles: Cycles = Field(
        default=20, description="cycles before an accumulator can be used again"
    )
    run_ahead_positions: Count = Field(
        default=8, description="positions that a unit may be ahead of the slowest one; 1 is lockstep"
    )
    activation_words_per_cycle: Count = Field(default=4, description="input words read in a cycle")
    projection_adders: Count = Field(default=4096, description="4-bit additions of the projection in a cycle")
    selection_latency_cycles: Cycles = Field(default=4, description="cycles from the last output to its mask")
    selection: Literal["threshold", "groups"] = Field(
        default="threshold",
        description="essential neurons by a threshold (any mask), or as many of each group of channels (N:M)",
    )
    group_channels: Count = Field(default=8, description="M: channels of a group; read for groups only")
    clock_mhz: Annotated[float, Field(gt=0, le=100_000, strict=True)] = 500.0
    weight_sram_kib_per_unit: Count = 64
    activation_sram_kib: Count = 512
    dram_bytes_per_cycle: Count | None = Field(
        default=None, description="bandwidth of the memory outside; none: all data are on the chip"
    )

    @model_validator(mode="after")
    def _consistent(self) -> "Hardware":
        if self.selection == "groups" and self.rows_per_unit % self.group_channels:
            raise ValueError(
                f"rows_per_unit {self.rows_per_unit} is no multiple of group_channels {self.group_channels}: "
                "a group lies in one vector unit"
            )
        written = self.vector_units * min(4, self.rows_per_unit)
        accepted = self.lanes * self.activation_words_per_cycle
        if written > accepted:
            raise ValueError(
                f"the approximate pass makes up to {written} outputs in a cycle, {accepted} can be written; "
                "expected more lanes or activation_words_per_cycle"
            )
        return self

    @property
    def rows_per_block(self) -> int:
        """Output channels that all vector units together hold at a time."""
        return self.rows_per_unit * self.vector_units

    @property
    def word_bytes(self) -> int:
        """Bytes of a memory word: one value for each lane."""
        return 2 * self.lanes

    @property
    def weight_bytes_per_unit(self) -> int:
        """Capacity of a vector unit's weight memory."""
        return self.weight_sram_kib_per_unit * 1024

    @property
    def activation_bytes(self) -> int:
        """Capacity of the activation memory."""
        return self.activation_sram_kib * 1024

    @property
    def clock_hz(self) -> float:
        """Cycles in a second."""
        return self.clock_mhz * 1e6


def core_names() -> list[str]:
    """Designs that come with the simulator."""
    return sorted(path.stem for path in CORES.glob("*.yaml"))


def load_hardware(name_or_path: str | Path) -> Hardware:
    """A design that comes with the simulator, or one of a YAML file.

    Raises:
        InputError: no such design or file, or a key or value that it cannot have.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        if str(name_or_path) not in core_names():
            raise unknown_choice("hardware", str(name_or_path), [*core_names(), "or a .yaml file"])
        path = CORES / f"{name_or_path}.yaml"
    return read_model(path, Hardware)
