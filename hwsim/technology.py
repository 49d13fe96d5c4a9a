"""What an operation costs in silicon: energy, area and leakage of the units, each with its source.

A technology is a YAML file. `hwsim/technologies/` holds those that are shipped; their figures differ by up to
a factor of four for one and the same unit, which is why there is more than one.
"""

from dataclasses import replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from hwsim.errors import unknown_choice
from hwsim.reading import read_model
from hwsim.sram import CACTI45, Cell, Sram, cacti_sram

TECHNOLOGIES = Path(__file__).parent / "technologies"


def _no_boolean(value: Any) -> Any:
    """YAML reads `yes` as true, which would count as 1."""
    if isinstance(value, bool):
        raise ValueError(f"expected a number, found {str(value).lower()}")
    return value


Text = Annotated[str, Field(pattern=r"\S")]
Positive = Annotated[float, BeforeValidator(_no_boolean), Field(gt=0, allow_inf_nan=False)]
PositiveWhole = Annotated[int, BeforeValidator(_no_boolean), Field(gt=0)]


class Section(BaseModel):
    """Base of all that is read from a technology file: immutable, and strict about its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Entry(Section):
    """A figure, and how a reader can find it or compute it again."""

    value: Annotated[float, BeforeValidator(_no_boolean), Field(ge=0, allow_inf_nan=False)]
    source: Text


class CactiMemory(Section):
    """On-chip memories are rows of the shipped CACTI table (`hwsim.sram`)."""

    kind: Literal["cacti45"]
    cell: Cell = Field(description="transistors of the memories, see `hwsim.sram.Cell`")

    def memory(self, bytes: int, word_bytes: int, ports: str) -> Sram:
        """The memory as CACTI describes it."""
        return cacti_sram(bytes, word_bytes, ports, self.cell)


class SquareRootMemory(Section):
    """The energy of an access grows with the square root of the capacity and in proportion to the width.

    For publications that give a few sizes only. Reads and writes cost the same. Leakage, area and access
    time are those of the CACTI table.
    """

    kind: Literal["square_root"]
    cell: Cell = Field(description="transistors that leakage, area and access time are those of")
    access_pj: Entry = Field(description="energy of an access to the reference memory")
    reference_bytes: PositiveWhole = Field(description="capacity of the reference memory")
    reference_word_bytes: PositiveWhole = Field(description="width of its accesses")

    def memory(self, bytes: int, word_bytes: int, ports: str) -> Sram:
        """The memory with the energies of this model."""
        table = cacti_sram(bytes, word_bytes, ports, self.cell)
        growth = (bytes / self.reference_bytes) ** 0.5 * word_bytes / self.reference_word_bytes
        energy = self.access_pj.value * growth
        return replace(table, read_pj=energy, write_pj=energy)


class Technology(Section):
    """Costs of one process: pJ per operation, um2 and uW of leakage per instance of a unit."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9_]+$")] = Field(description="as tables and files name it")
    title: Text = Field(description="one line for people")
    method: Text = Field(description="how its figures came about, for the sources that refer to it")
    feature_nm: Positive = Field(description="name of the process, in nanometres")
    supply_volt: Positive = Field(description="supply voltage of the logic")
    sram: Annotated[CactiMemory | SquareRootMemory, Field(discriminator="kind")] = Field(
        description="on-chip memories"
    )

    multiply_16x16_pj: Entry = Field(description="16 x 16 bit product of the composed unit")
    multiply_4x16_pj: Entry = Field(
        description="one of the four 16 x 4 bit products that the composed unit makes at a time"
    )
    multiplier_area_um2: Entry = Field(description="the composed unit: sixteen 4 x 4 bit multipliers")
    multiplier_leakage_uw: Entry = Field(description="the composed unit")
    multiply_16x16_plain_pj: Entry = Field(description="comparison: a multiplier that cannot be divided")
    multiply_4x4_pj: Entry | None = Field(default=None, description="comparison: a 4 x 4 bit multiplier")

    add_4_pj: Entry = Field(description="4-bit adder")
    add_4_area_um2: Entry = Field(description="4-bit adder")
    add_4_leakage_uw: Entry = Field(description="4-bit adder")
    add_32_pj: Entry = Field(description="32-bit adder")
    add_32_area_um2: Entry = Field(description="32-bit adder")
    add_32_leakage_uw: Entry = Field(description="32-bit adder")

    compare_16_pj: Entry = Field(description="16-bit signed comparison")
    compare_16_area_um2: Entry = Field(description="16-bit signed comparator")
    compare_16_leakage_uw: Entry = Field(description="16-bit signed comparator")

    register_bit_write_pj: Entry = Field(description="one bit of a register, its clock included")
    register_bit_read_pj: Entry = Field(description="one bit chosen among the registers of a file")
    register_bit_area_um2: Entry = Field(description="one bit of a register")
    register_bit_leakage_uw: Entry = Field(description="one bit of a register")

    dram_pj_per_byte: Entry = Field(description="a byte from or to DRAM, interface included")

    def memory(self, bytes: int, word_bytes: int, ports: str = "rw") -> Sram:
        """An on-chip memory.

        Args:
            bytes: capacity.
            word_bytes: bytes of one access.
            ports: "rw", one port for both, or "r_w", one that reads and one that writes.

        Raises:
            InputError: the CACTI table does not cover it.
        """
        return self.sram.memory(bytes, word_bytes, ports)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all figures and of the table of memories: equal digests, equal costs."""
        return sha256(self.model_dump_json().encode() + CACTI45.read_bytes()).hexdigest()

    def entries(self) -> dict[str, Entry]:
        """All figures by name, those of the memory model apart."""
        found = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: value for name, value in found.items() if isinstance(value, Entry)}


def technologies() -> list[str]:
    """Names of the shipped technologies."""
    return sorted(path.stem for path in TECHNOLOGIES.glob("*.yaml"))


def load_technology(name_or_path: str | Path) -> Technology:
    """A shipped technology by its name, or a user's own from a YAML file.

    Text with a slash or the suffix of a YAML file is a path, anything else is a name.

    Raises:
        InputError: an unknown name, or a file that is malformed.
    """
    path = Path(name_or_path)
    if isinstance(name_or_path, str) and path.suffix not in (".yaml", ".yml") and path.name == name_or_path:
        if name_or_path not in technologies():
            raise unknown_choice("technology", name_or_path, technologies())
        path = TECHNOLOGIES / f"{name_or_path}.yaml"
    return read_model(path, Technology)
