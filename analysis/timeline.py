"""When the accelerator works on which layer of a network, and what it waits for, as simulations tracked it.

Layers run one after the other, because each needs all outputs of the one before: their tracked cycles put
them on one axis. Within a layer the tiles take turns, too fast to be seen there. What is tracked is the
share of the vector units' time that went to each cause; these shares add up to one in every layer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import polars as pl

from analysis.files import RunFiles
from analysis.names import listed, percent
from analysis.networks import Network, networks

LAYERS, SIMULATION = "layers.csv", "simulation.json"
# Networks whose files are asked for, at most: files may be far away, or gone.
MOST_TRIED = 3
# Noise in the neurons that matter least, also where runs were recorded before that was a tag.
CHOSEN = (None, "non_essential")


@dataclass(frozen=True, kw_only=True)
class Part:
    """What vector units do, or which part of the machine they wait for; `causes` are columns of the table."""

    name: str
    waits_for: str
    """As the end of "they wait for"; "" where they work."""
    causes: tuple[str, ...]

    @property
    def works(self) -> bool:
        """Whether something is multiplied meanwhile."""
        return not self.waits_for


PARTS = (
    Part(name="multiply, 16 x 16 bits", waits_for="", causes=("precise",)),
    Part(name="multiply, 4 x 16 bits", waits_for="", causes=("approximate",)),
    Part(name="wait: no channel", waits_for="want of channels in the layer", causes=("alignment",)),
    Part(name="wait: other units", waits_for="units with more to do", causes=("imbalance",)),
    Part(name="wait: accumulators", waits_for="the accumulators' pipeline", causes=("depth", "drain")),
    Part(name="wait: projection", waits_for="projected inputs", causes=("projection",)),
    Part(name="wait: selection", waits_for="the mask", causes=("selection",)),
    Part(name="wait: memory", waits_for="a memory", causes=("activation_port", "dram")),
)
"""All causes of `hwsim.explain.MEANINGS`, work first."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """A time of the accelerator: a layer, or a whole network. `shares` by `Part.name` add up to 1."""

    name: str
    start: float
    """Cycles from the network's start."""
    cycles: float
    shares: Mapping[str, float]

    @property
    def end(self) -> float:
        """Cycles from the network's start."""
        return self.start + self.cycles

    @property
    def working(self) -> float:
        """The share of the vector units' time in which they multiply, 0 to 1."""
        return sum(self.shares[part.name] for part in PARTS if part.works)


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """One network on one core with the masks of real images; means over batches of `images` images."""

    network: Network
    core: str
    images: int
    layers: tuple[Span, ...]

    @property
    def label(self) -> str:
        """ "Ratio 0.99, clean, unstructured core"."""
        return f"{self.network.label}, {self.core} core"

    @cached_property
    def whole(self) -> Span:
        """All layers as one."""
        return _together(self.label, self.layers)


@dataclass(frozen=True, kw_only=True)
class Timelines:
    """What is shown together: `dense` is None where it was not tracked, and has a total only."""

    own: tuple[Timeline, ...]
    dense: Span | None


def timelines(runs: pl.DataFrame, files: RunFiles) -> Timelines:
    """Of the first architecture: the network with the most noise, and that with the most noise by a pattern.

    Each on every core that was simulated. `runs` are rows of `analysis.load_runs` of every stage. Of several
    seeds the first counts; networks without the tables that the stage tracks are left out.
    """
    every = [one for one in networks(runs, stage="simulate") if one.noisy_share]
    noisy = [
        one
        for one in every
        if one.subject == every[0].subject and one.is_plain and one.identity["target"] in CHOSEN
    ]
    by_noise = sorted(noisy, key=lambda one: -(one.noisy_share or 0))
    by_pattern = [one for one in by_noise if one.identity["pattern"]]
    own: dict[tuple[int, str], Timeline] = {}
    for candidates in (by_noise, by_pattern):
        for network in candidates[:MOST_TRIED]:
            found = _of(network, files)
            own |= {(id(network), one.core): one for one in found}
            if found:
                break
    shown = tuple(own.values())
    return Timelines(own=shown, dense=_dense(shown[0], files) if shown else None)


def _of(network: Network, files: RunFiles) -> list[Timeline]:
    run_id = network.runs[0]["run_id"]
    table = files.table(run_id, LAYERS)
    if table is None or table.is_empty():
        return []
    found = []
    for core in table["core"].unique(maintain_order=True):
        layers: list[Span] = []
        for row in table.filter(pl.col("core") == core).iter_rows(named=True):
            shares = {part.name: sum(row.get(cause, 0.0) for cause in part.causes) for part in PARTS}
            start = layers[-1].end if layers else 0.0
            layers.append(Span(name=row["layer"], start=start, cycles=row["cycles"], shares=shares))
        found.append(
            Timeline(network=network, core=core, images=_images(network, files), layers=tuple(layers))
        )
    return found


def _images(network: Network, files: RunFiles) -> int:
    """How many images the accelerator computed together."""
    rows = _simulation(network, files).get("rows") or [{}]
    return int(rows[0].get("images", 1))


def _dense(first: Timeline, files: RunFiles) -> Span | None:
    """The dense network on the first core, that all is compared with, from the counts of its simulation."""
    counts = _simulation(first.network, files).get("dense", {}).get("counters")
    if not counts:
        return None
    cycles = counts["cycles"]
    units = {"precise": "busy_precise", "approximate": "busy_approximate"} | {
        name: name for name in ("alignment", "imbalance", "activation_port", "depth")
    }
    waits = {"drain": "drain_cycles"} | {
        name: f"{name}_stall_cycles" for name in ("projection", "selection", "dram")
    }
    stalled = sum(counts[name] for name in waits.values())
    # every unit has exactly one cause in every cycle
    count = sum(counts[name] for name in units.values()) / (cycles - stalled)
    causes = {cause: counts[name] / count / cycles for cause, name in units.items()}
    causes |= {cause: counts[name] / cycles for cause, name in waits.items()}
    shares = {part.name: sum(causes[cause] for cause in part.causes) for part in PARTS}
    return Span(name=f"Dense network, {first.core} core", start=0.0, cycles=cycles, shares=shares)


def _simulation(network: Network, files: RunFiles) -> dict[str, Any]:
    return {row["name"]: row["value"] for row in files.rows(network.runs[0]["run_id"], SIMULATION)}


def _together(name: str, spans: Sequence[Span]) -> Span:
    cycles = sum(one.cycles for one in spans)
    shares = {part.name: sum(one.cycles * one.shares[part.name] for one in spans) / cycles for part in PARTS}
    return Span(name=name, start=spans[0].start, cycles=cycles, shares=shares)


def sentences(found: Timelines) -> list[str]:
    """What one sees, a sentence or three for each timeline."""
    told = []
    for one in found.own:
        whole = one.whole
        of_dense = ""
        if found.dense is not None:
            of_dense = f", {percent(whole.cycles / found.dense.cycles)}% of the dense network's"
        waits = sorted(
            ((whole.shares[part.name], part.waits_for) for part in PARTS if not part.works), reverse=True
        )
        reasons = [f"{percent(share)}% for {words}" for share, words in waits if share >= 0.01]
        idle = f"wait {percent(1 - whole.working)}%"
        longest = max(one.layers, key=lambda layer: layer.cycles)
        laziest = min(one.layers, key=lambda layer: layer.working)
        told.append(
            f"{one.label}: {spelled(whole.cycles)} cycles{of_dense}. Vector units multiply "
            f"{percent(whole.working)}% of that time and {idle}{': ' if reasons else ''}{listed(reasons)}. "
            f"The longest layer, {longest.name}, takes {percent(longest.cycles / whole.cycles)}% of the "
            f"time; units work least in {laziest.name}, {percent(laziest.working)}%."
        )
    if found.dense is not None:
        told.append(
            f"{found.dense.name}: {spelled(found.dense.cycles)} cycles, in which vector units multiply "
            f"{percent(found.dense.working)}% of the time."
        )
    return told


def spelled(count: float) -> str:
    """A number of cycles for readers, with thin spaces between thousands."""
    return f"{count:,.0f}".replace(",", "\u202f")
