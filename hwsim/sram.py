"""On-chip memories: what CACTI says about them, read from a table that is shipped with the package.

`hwsim/technologies/cacti45.json` holds every capacity, word width, arrangement of ports and type of cell that
was run, with the configuration and the version of CACTI; `hwsim.cacti` makes it and adds to it.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast, get_args

from hwsim.errors import InputError, unknown_choice

Ports = Literal["rw", "r_w"]
"""One port that reads or writes in a cycle, or one that reads and another that writes."""

Cell = Literal["hp", "lop", "lstp"]
"""The transistors of the ITRS: high performance, low operating power, low standby power."""

CACTI45 = Path(__file__).parent / "technologies" / "cacti45.json"
"""The shipped table, at 45 nm."""


class SramPoint(NamedTuple):
    """What identifies a memory in a table. The order is that of the table's rows."""

    cell: Cell
    ports: Ports
    word_bytes: int
    bytes: int

    def __str__(self) -> str:
        ports = "one read/write port" if self.ports == "rw" else "one read and one write port"
        return f"{self.bytes} bytes in words of {self.word_bytes} bytes, {ports}, cell {self.cell}"


@dataclass(frozen=True)
class Sram:
    """One memory; energies are those of an access to one word."""

    bytes: int
    word_bytes: int
    read_pj: float
    write_pj: float
    leakage_mw: float
    """Of the whole memory, subthreshold and gate leakage, at the temperature of the table."""
    area_mm2: float
    access_ns: float
    """From the address to the data. A memory fits a clock if this is below its period."""


MEASURED = tuple(field.name for field in fields(Sram))[2:]
"""What a row says beside its point."""


@dataclass(frozen=True)
class SramTable:
    """What was run, with what, and what came out."""

    version: str
    """As CACTI prints it."""
    configuration: str
    """The text that CACTI read, with the names of what varies between rows in braces."""
    rows: dict[SramPoint, Sram]


def point_of(bytes: int, word_bytes: int, ports: str = "rw", cell: str = "lop") -> SramPoint:
    """A point; `InputError` for an unknown cell or arrangement of ports, or sizes that are not positive."""
    if cell not in get_args(Cell):
        raise unknown_choice("SRAM cell", cell, get_args(Cell))
    if ports not in get_args(Ports):
        raise unknown_choice("arrangement of SRAM ports", ports, get_args(Ports))
    for name, value in (("bytes", bytes), ("word_bytes", word_bytes)):
        if type(value) is not int or value < 1:
            raise InputError(f"SRAM {name}: expected a whole number of at least 1, found {value!r}")
    return SramPoint(cast(Cell, cell), cast(Ports, ports), word_bytes, bytes)


def cacti_sram(
    bytes: int, word_bytes: int, ports: str = "rw", cell: str = "lop", table: Path = CACTI45
) -> Sram:
    """The memory of this capacity and word width.

    A capacity that was run gives its row. Between two rows of the same width, ports and cell every quantity
    is a power law of the capacity, i.e. log(quantity) is linear in log(bytes); nothing is extrapolated, and
    nothing is interpolated between widths.

    Args:
        bytes: capacity.
        word_bytes: bytes of one access.
        ports: see `Ports`.
        cell: see `Cell`; cells of the array and transistors around it are of the same type.
        table: a table made by `hwsim.cacti.regenerate`.

    Raises:
        InputError: an unknown choice, a width that is not in the table, a capacity outside of its range.
    """
    point = point_of(bytes, word_bytes, ports, cell)
    rows = read_table(table).rows
    if point in rows:
        return rows[point]
    alike = sorted(p for p in rows if p[:2] == point[:2])
    same_width = [p for p in alike if p.word_bytes == word_bytes]
    for below, above in pairwise(same_width):
        if below.bytes < bytes < above.bytes:
            return _between(rows[below], rows[above], bytes)
    if same_width:
        known = f"{same_width[0].bytes} to {same_width[-1].bytes} bytes"
    elif alike:
        known = f"words of {', '.join(str(width) for width in sorted({p.word_bytes for p in alike}))} bytes"
    else:
        known = "none with such cells and ports"
    raise InputError(
        f"no SRAM of {point} in {table.name}, which has {known}; "
        "`python -m hwsim cacti --cacti PATH` can add it"
    )


def _between(below: Sram, above: Sram, bytes: int) -> Sram:
    share = math.log(bytes / below.bytes) / math.log(above.bytes / below.bytes)
    values = {name: getattr(below, name) ** (1 - share) * getattr(above, name) ** share for name in MEASURED}
    return replace(below, bytes=bytes, **values)


# --- the file ----------------------------------------------------------------------------------------------


@cache
def read_table(path: Path = CACTI45) -> SramTable:
    """The table in a JSON file; `InputError` names the file and what is wrong with it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        rows = [_row(row) for row in content["rows"]]
        table = SramTable(str(content["version"]), "\n".join(content["configuration"]), dict(rows))
    except OSError as error:
        raise InputError(f"cannot read the SRAM table {str(path)!r}: {error.strerror}") from error
    except (ValueError, TypeError, KeyError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise InputError(f"{path}: not an SRAM table: {reason}") from error
    if len(table.rows) < len(rows):
        raise InputError(f"{path}: not an SRAM table: a row is given twice")
    return table


def _row(row: dict[str, Any]) -> tuple[SramPoint, Sram]:
    point = point_of(row["bytes"], row["word_bytes"], row["ports"], row["cell"])
    values = {name: row[name] for name in MEASURED}
    for name, value in values.items():
        # positive: interpolation takes logarithms
        if type(value) not in (int, float) or not 0 < value < math.inf:
            raise InputError(f"{name} of {point}: expected a positive number, found {value!r}")
    return point, Sram(point.bytes, point.word_bytes, **values)


def write_table(table: SramTable, path: Path) -> None:
    """Write `table`, its rows sorted and one a line, so that two tables can be compared line by line."""
    lines = [json.dumps(_as_written(point, table.rows[point])) for point in sorted(table.rows)]
    header = {"version": table.version, "configuration": table.configuration.splitlines()}
    text = json.dumps(header, indent=1).removesuffix("\n}")
    path.write_text(text + ',\n "rows": [\n  ' + ",\n  ".join(lines) + "\n ]\n}\n", encoding="utf-8")
    read_table.cache_clear()


def _as_written(point: SramPoint, sram: Sram) -> dict[str, str | int | float]:
    return {**point._asdict(), **dict(zip(MEASURED, astuple(sram)[2:], strict=True))}


def points(
    capacities: Iterable[int], widths: Sequence[int], ports: Sequence[str], cells: Sequence[str]
) -> list[SramPoint]:
    """Every combination, capacities innermost."""
    sizes = list(capacities)
    return [point_of(size, width, p, c) for c in cells for p in ports for width in widths for size in sizes]
