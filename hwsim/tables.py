"""Results as tables for a terminal."""

from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from hwsim.compare import Difference
from hwsim.costs import Costs
from hwsim.counters import Counters
from hwsim.explain import shares
from hwsim.hardware import Hardware
from hwsim.memory import weight_bytes
from hwsim.results import NetworkResult, utilisation
from hwsim.sweep import FIGURES, Point
from hwsim.technology import Technology

SCALES = (
    (1e-12, "p"),
    (1e-9, "n"),
    (1e-6, "u"),
    (1e-3, "m"),
    (1.0, ""),
    (1e3, "k"),
    (1e6, "M"),
    (1e9, "G"),
    (1e12, "T"),
)


def engineering(value: float, unit: str) -> str:
    """Four digits and a prefix: 0.00371 J is 3.710 mJ."""
    if value == 0:
        return f"0 {unit}".rstrip()
    scale, prefix = next((one for one in reversed(SCALES) if abs(value) >= one[0]), SCALES[0])
    return f"{value / scale:.4g} {prefix}{unit}".rstrip()


def layers(result: NetworkResult) -> Table:
    """One line for each layer."""
    table = _table(f"{result.network}, {result.noise}, {result.hardware.name} core, images: {result.images}")
    for heading in ("layer", "precise", "cycles", "utilisation", "energy"):
        table.add_column(heading, justify="left" if heading == "layer" else "right")
    for one in result.layers:
        table.add_row(
            one.layer.name,
            f"{one.density:.1%}",
            f"{one.counters.cycles:,}",
            f"{utilisation(one.counters, result.hardware):.1%}",
            engineering(sum(one.energy_pj.values()) * 1e-12, "J"),
        )
    return table


def figures(result: NetworkResult, dense: NetworkResult) -> Table:
    """The figures of the whole network, beside those of the dense one."""
    units = {
        "cycles": "",
        "seconds": "s",
        "joules": "J",
        "energy_delay_joule_seconds": "J s",
        "operations_per_joule": "op/J",
        "operations_per_second_mm2": "op/s/mm2",
    }
    names = {"cycles": "cycles", **FIGURES}
    table = _table(f"technology {result.technology}, area {result.area_mm2:.2f} mm2")
    for heading in ("", result.noise, f"dense, {dense.hardware.name} core", "ratio"):
        table.add_column(heading, justify="left" if not heading else "right")
    own, other = result.summary(), dense.summary()
    for name, unit in units.items():
        table.add_row(
            names[name],
            engineering(own[name], unit),
            engineering(other[name], unit),
            f"{own[name] / other[name]:.4f}",
        )
    _add_shares(table, "energy of ", result.energy_pj, dense.energy_pj)
    _add_shares(table, "area of ", result.area_um2, dense.area_um2)
    for name, (value, unit) in _amounts(result).items():
        beside, _ = _amounts(dense)[name]
        table.add_row(name, engineering(value, unit), engineering(beside, unit), _ratio(value, beside))
    return table


def _add_shares(table: Table, what: str, own: Mapping[str, float], other: Mapping[str, float]) -> None:
    """Lines of parts, as shares of their sums."""
    for part, value in own.items():
        shares = [f"{one[part] / sum(one.values()):.1%}" for one in (own, other)]
        table.add_row(f"  {what}{part}", *shares, _ratio(value, other[part]))


def _amounts(result: NetworkResult) -> dict[str, tuple[float, str]]:
    """What is computed and moved, with units."""
    counters, word = result.counters, result.hardware.word_bytes
    weights = counters.weight_words_read + counters.projection_entry_words_read
    return {
        "products of 16 x 16 bits": (counters.multiplications_16x16, ""),
        "products of 4 x 16 bits": (counters.multiplications_4x16, ""),
        "additions of 32 bits": (counters.accumulations, ""),
        "additions of 4 bits": (counters.projection_additions, ""),
        "read from weight memories": (word * weights, "B"),
        "read from activation memory": (word * counters.activation_words_read, "B"),
        "written to activation memory": (word * counters.activation_words_written, "B"),
        "from and to outside": (counters.dram_bytes, "B"),
    }


def _ratio(value: float, beside: float) -> str:
    return f"{value / beside:.4f}" if beside else "-"


def remarks(result: NetworkResult, technology: Technology) -> list[str]:
    """What a reader of the figures should know."""
    core = result.hardware
    found = []
    needed = sum(weight_bytes(one.layer, result.noise != "dense") for one in result.layers)
    capacity = core.weight_bytes_per_unit * core.vector_units
    if core.dram_bytes_per_cycle is None and needed > capacity:
        found.append(
            f"The weights take {needed / 2**20:.1f} MiB, the weight memories hold {capacity / 2**20:.1f} "
            "MiB: all data are taken to be in place, as in the paper's hierarchy. --dram BYTES counts what "
            "moving them takes."
        )
    period = 1e9 / core.clock_hz
    costs = Costs(core, technology)
    for name, memory in (("weight", costs.weight_memory), ("activation", costs.activation_memory)):
        if memory.access_ns > period:
            found.append(
                f"A read of the {name} memory takes {memory.access_ns:.2f} ns, a cycle at {core.clock_mhz:g} "
                f"MHz {period:.2f} ns: it would need more than one, which is not counted."
            )
    return found


def points(found: Sequence[Point]) -> Table:
    """A sweep, relative to the dense network on the first core."""
    table = _table(f"relative to the dense network on the {found[0].dense.hardware.name} core")
    for heading in ("network", "noise", "masks", "core", *FIGURES.values()):
        table.add_column(
            heading, justify="left" if heading in ("network", "noise", "masks", "core") else "right"
        )
    for point in found:
        core = point.result.hardware.name
        numbers = [f"{point.relative[name]:.4f}" for name in FIGURES]
        table.add_row(point.result.network, point.noise.label, point.noise.origin, core, *numbers)
    return table


def causes(counters: Counters, hardware: Hardware) -> Table:
    """What vector units did in all cycles."""
    whole = hardware.vector_units * counters.cycles
    table = _table(f"{counters.cycles:,} cycles x {hardware.vector_units} vector units = {whole:,}")
    for heading in ("", "unit cycles", "share", "what it is"):
        table.add_column(heading, justify="right" if heading in ("unit cycles", "share") else "left")
    for share in shares(counters, hardware):
        table.add_row(share.cause, f"{share.unit_cycles:,}", f"{share.of_all:.2%}", share.meaning)
    table.add_row("all", f"{whole:,}", "100.00%", "")
    return table


def causes_by_layer(result: NetworkResult) -> Table:
    """Shares of causes for each layer; causes that never occur are left out."""
    rows = {one.layer.name: shares(one.counters, result.hardware) for one in result.layers}
    seen = [
        share.cause
        for i, share in enumerate(next(iter(rows.values())))
        if any(row[i].unit_cycles for row in rows.values())
    ]
    table = _table("shares of the vector units' cycles, %")
    table.add_column("layer")
    for heading in ("cycles", *seen):
        table.add_column(heading, justify="right")
    for one in result.layers:
        own = [f"{100 * share.of_all:.1f}" for share in rows[one.layer.name] if share.cause in seen]
        table.add_row(one.layer.name, f"{one.counters.cycles:,}", *own)
    return table


def comparison(rows: Sequence[Difference], first: str, second: str) -> Table:
    """Two results; figures that are 0 in both are left out."""
    table = _table("")
    for heading in ("", first, second, "ratio"):
        table.add_column(heading, justify="left" if not heading else "right")
    for row in rows:
        if row.first or row.second:
            ratio = "-" if row.ratio is None else f"{row.ratio:.4f}"
            table.add_row(row.name, f"{row.first:.6g}", f"{row.second:.6g}", ratio)
    return table


def _table(title: str) -> Table:
    return Table(title=title or None, title_justify="left", box=SIMPLE_HEAD)
