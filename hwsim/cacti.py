"""Run CACTI 7, a model of memories that the user has built, and keep what it says in a table.

Nothing of CACTI is shipped. Its source is public (HewlettPackard/cacti; `make` builds it in seconds); it
reads `tech_params/` relative to where it is started, so that folder has to lie beside the program or one
level above it, as it does after a build.
"""

import math
import re
import subprocess
import tempfile
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from pathlib import Path

from hwsim.errors import InputError
from hwsim.sram import CACTI45, Sram, SramPoint, SramTable, points, read_table, write_table

STANDARD_POINTS = points(
    capacities=[2**exponent for exponent in range(8, 22)],
    widths=(4, 8, 16, 32, 64),
    ports=("rw", "r_w"),
    cells=("hp", "lop", "lstp"),
)
"""What the shipped table covers, as far as CACTI finds an organisation: 256 bytes to 2 MiB."""

SECONDS = 120.0
"""Patience for one run, which takes below 3 s."""

CONFIGURATION = """\
-size (bytes) {bytes}
-block size (bytes) {word_bytes}
-output/input bus width {word_bits}
-associativity 1
-read-write port {read_write_ports}
-exclusive read port {read_ports}
-exclusive write port {write_ports}
-single ended read ports 0
-UCA bank count 1
-technology (u) 0.045
-cache type "ram"
-Cache model (NUCA, UCA) - "UCA"
-tag size (b) "default"
-access mode (normal, sequential, fast) - "normal"
-Data array cell type - "itrs-{cell}"
-Data array peripheral type - "itrs-{cell}"
-Tag array cell type - "itrs-{cell}"
-Tag array peripheral type - "itrs-{cell}"
-operating temperature (K) 360
-design objective (weight delay, dynamic power, leakage power, cycle time, area) 0:0:0:100:0
-deviate (delay, dynamic power, leakage power, cycle time, area) 20:100000:100000:100000:100000
-Optimize ED or ED^2 (ED, ED^2, NONE): "NONE"
-Wire signaling (fullswing, lowswing, default) - "Global_30"
-Wire inside mat - "semi-global"
-Wire outside mat - "semi-global"
-Interconnect projection - "conservative"
-Add ECC - "false"
-Array Power Gating - "false"
-WL Power Gating - "false"
-CL Power Gating - "false"
-Bitline floating - "false"
-Interconnect Power Gating - "false"
-Power Gating Performance Loss 0.01
-Force cache config - "false"
-Ndwl 1
-Ndbl 1
-Nspd 0
-Ndcm 1
-Ndsam1 0
-Ndsam2 0
-Print level (DETAILED, CONCISE) - "CONCISE"
-Print input parameters - "false"
-NUCAdesign objective (weight delay, dynamic power, leakage power, cycle time, area) 100:100:0:0:100
-NUCAdeviate (delay, dynamic power, leakage power, cycle time, area) 10:10000:10000:10000:10000
-NUCA bank count 0
-Core count 8
-Cache level (L2/L3) - "L3"
-page size (bits) 8192
-burst length 8
-internal prefetch width 8
-dram_type "DDR3"
-io state "WRITE"
-addr_timing 1.0
-mem_density 4 Gb
-bus_freq 800 MHz
-duty_cycle 1.0
-activity_dq 1.0
-activity_ca 0.5
-num_dq 72
-num_dqs 18
-num_ca 25
-num_clk 2
-num_mem_dq 2
-mem_data_width 8
-rtt_value 10000
-ron_value 34
-tflight_value
-num_bobs 1
-capacity 80
-num_channels_per_bob 1
-first metric "Cost"
-second metric "Bandwidth"
-third metric "Energy"
-DIMM model "ALL"
-mirror_in_bob "F"
"""
"""All that CACTI reads, so that nothing is left to its defaults.

The optimiser's tag alone moves the read energy of 64 KiB in words of 8 bytes (hp) from 11.5 pJ (ED) over 24.9
(NONE: the weights and deviations above it count) to 29.0 (ED^2). Lines from `-NUCAdesign` on describe caches
of processors and DRAM; without them CACTI divides by zero. Of those the burst has to be as long as what is
fetched at a time, here 8 and 8: otherwise CACTI counts a read several times, of an SRAM too.
"""

NO_ORGANISATION = "no valid data array organizations found"
"""What CACTI says of a memory that it cannot divide into arrays, such as few words that are very wide."""


class NoOrganisation(InputError):
    """CACTI runs, but knows no way to build this memory."""


def configuration(point: SramPoint) -> str:
    """The text that CACTI reads for `point`. The width of the bus is that of a word."""
    shared = point.ports == "rw"
    return CONFIGURATION.format(
        **point._asdict(),
        word_bits=8 * point.word_bytes,
        read_write_ports=int(shared),
        read_ports=int(not shared),
        write_ports=int(not shared),
    )


def run(cacti: Path, point: SramPoint, seconds: float = SECONDS) -> tuple[str, Sram]:
    """CACTI's version and its answer for one memory.

    Args:
        cacti: the program.
        seconds: after which it is stopped.

    Raises:
        NoOrganisation: it cannot build this memory.
        InputError: the program is missing, cannot be started, fails, hangs, or prints something else.
    """
    program = cacti.resolve()
    if not program.is_file():
        raise InputError(f"no CACTI program {str(cacti)!r}")
    parameters = [found for folder in program.parents[:2] if (found := folder / "tech_params").is_dir()]
    if not parameters:
        raise InputError(f"CACTI's folder tech_params/ is neither beside {str(cacti)!r} nor one level above")
    with tempfile.TemporaryDirectory(prefix="hwsim-cacti-") as folder:
        # it is started here, not in its own folder: it writes beside the file it reads
        (Path(folder) / "tech_params").symlink_to(parameters[0])
        (Path(folder) / "sram.cfg").write_text(configuration(point), encoding="utf-8")
        try:
            done = subprocess.run(
                [str(program), "-infile", "sram.cfg"],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=seconds,
            )
        except OSError as error:
            raise InputError(f"cannot start CACTI {str(cacti)!r}: {error.strerror}") from error
        except subprocess.TimeoutExpired:
            raise InputError(f"CACTI {str(cacti)!r} took more than {seconds:g} s for {point}") from None
    printed = f"{done.stdout}\n{done.stderr}"
    if NO_ORGANISATION in printed:
        raise NoOrganisation(f"CACTI knows no way to build an SRAM of {point}")
    if done.returncode:
        last = ([line.strip() for line in printed.splitlines() if line.strip()] or ["it printed nothing"])[-1]
        raise InputError(f"CACTI {str(cacti)!r} failed with code {done.returncode} for {point}: {last[:200]}")
    try:
        return parse(done.stdout, point)
    except InputError as error:
        raise InputError(f"CACTI {str(cacti)!r}, {point}: {error}") from None


def parse(printed: str, point: SramPoint) -> tuple[str, Sram]:
    """CACTI's version and what it printed; `InputError` if that is not all there, or not about `point`."""
    shared = int(point.ports == "rw")
    for name, expected in (
        ("Total cache size (bytes)", point.bytes),
        ("Block size (bytes)", point.word_bytes),
        ("Read/write Ports", shared),
        ("Read ports", 1 - shared),
        ("Write ports", 1 - shared),
        ("Technology size (nm)", 45),
    ):
        if (found := _number(printed, name)) != expected:
            raise InputError(f"expected {name!r} to be {expected}, found {found:g}")
    version = re.search(r"CACTI \(version ([^)]+)\)", printed)
    if version is None:
        raise InputError("it does not print its version")
    height, width = (_number(printed, "Cache height x width (mm)", part) for part in (0, 1))
    leakage = [_number(printed, f"Total {kind}leakage power of a bank (mW)") for kind in ("", "gate ")]
    return version[1], Sram(
        bytes=point.bytes,
        word_bytes=point.word_bytes,
        read_pj=_rounded(1000 * _number(printed, "Total dynamic read energy per access (nJ)")),
        write_pj=_rounded(1000 * _number(printed, "Total dynamic write energy per access (nJ)")),
        leakage_mw=_rounded(sum(leakage)),
        area_mm2=_rounded(height * width),
        access_ns=_number(printed, "Access time (ns)"),
    )


def _number(printed: str, name: str, part: int = 0) -> float:
    """The number after `name:`, or that part of several joined by `x`."""
    line = re.search(rf"^\s*{re.escape(name)}:(.*)$", printed, re.MULTILINE)
    if line is None:
        raise InputError(f"it does not print {name!r}")
    try:
        number = float(line[1].split(" x ")[part])
    except (ValueError, IndexError):
        number = math.nan
    if not 0 <= number < math.inf:
        raise InputError(f"expected a number after {name!r}, found {line[1].strip()!r}")
    return number


def _rounded(value: float) -> float:
    """To the six digits that CACTI prints."""
    return float(f"{value:.6g}")


def regenerate(
    cacti: Path,
    rows: Iterable[SramPoint] = STANDARD_POINTS,
    out: Path = CACTI45,
    report: Callable[[str], object] = lambda line: None,
) -> tuple[SramTable, list[str]]:
    """Run CACTI for `rows` and write the table `out`, keeping its other rows if it is there already.

    Args:
        cacti: the program.
        rows: what to run; the shipped table takes some minutes.
        out: a JSON file.
        report: is told of every memory before CACTI runs.

    Returns:
        The table, and a line for each memory that CACTI cannot build, which the table then lacks.

    Raises:
        InputError: CACTI fails, or is of another version than the rows that are kept, or those were made with
            another configuration; the table then stays as it was.
    """
    asked = list(dict.fromkeys(rows))
    kept = _kept_rows(out, asked)
    made: dict[SramPoint, Sram] = {}
    impossible: list[str] = []
    version = ""
    for number, point in enumerate(asked, start=1):
        report(f"{number}/{len(asked)}: {point}")
        try:
            version, made[point] = run(cacti, point)
        except NoOrganisation as error:
            impossible.append(str(error))
            continue
        if kept.rows and version != kept.version:
            raise InputError(
                f"{str(out)!r} was made with CACTI {kept.version!r}, {str(cacti)!r} is {version!r}: "
                "name a new file, or make all rows again"
            )
    if not made:
        raise InputError(f"nothing to write to {str(out)!r}: CACTI builds none of the {len(asked)} memories")
    table = SramTable(version, CONFIGURATION.rstrip("\n"), kept.rows | made)
    try:
        write_table(table, out)
    except OSError as error:
        raise InputError(f"cannot write the SRAM table {str(out)!r}: {error.strerror}") from error
    return table, impossible


def _kept_rows(out: Path, asked: Collection[SramPoint]) -> SramTable:
    """The table `out` without what is made again; an empty one if it is not there or nothing is left."""
    configuration_text = CONFIGURATION.rstrip("\n")
    if not out.exists():
        return SramTable("", configuration_text, {})
    table = read_table(out)
    others = {point: row for point, row in table.rows.items() if point not in set(asked)}
    if others and table.configuration != configuration_text:
        raise InputError(
            f"{str(out)!r} was made with another configuration of CACTI: "
            "name a new file, or make all rows again"
        )
    return replace(table, rows=others)
