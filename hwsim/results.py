"""What a simulation says, as records that can be written down.

Energies are in picojoules, areas in square micrometres, unless a name says otherwise.
"""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hwsim.counters import Counters
from hwsim.hardware import Hardware
from hwsim.layers import Layer

SUMMARY = (
    "cycles",
    "seconds",
    "joules",
    "energy_delay_joule_seconds",
    "operations_per_joule",
    "operations_per_second_mm2",
    "area_mm2",
    "utilisation",
)
"""Properties of `NetworkResult` that are written down and compared."""


@dataclass(frozen=True, kw_only=True)
class LayerResult:
    """One layer of a network; all images together."""

    layer: Layer
    start_cycle: int
    """When it begins, counted from the network's start."""
    density: float
    """Share of the outputs that are computed precisely."""
    counters: Counters
    energy_pj: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class NetworkResult:
    """A network on a design: layers one after the other, because each needs all outputs of the one before."""

    network: str
    noise: str
    """What is simulated: "dense", a ratio, a pattern, or the file of the masks."""
    images: int
    """How many are computed together."""
    hardware: Hardware
    technology: str
    technology_digest: str
    """SHA-256 of the technology's entries and memories."""
    layers: tuple[LayerResult, ...]
    area_um2: Mapping[str, float]

    @cached_property
    def counters(self) -> Counters:
        """Sums over the layers."""
        return sum((layer.counters for layer in self.layers), Counters())

    @cached_property
    def energy_pj(self) -> dict[str, float]:
        """Sums over the layers, by part."""
        parts = self.layers[0].energy_pj
        return {part: sum(layer.energy_pj[part] for layer in self.layers) for part in parts}

    @property
    def cycles(self) -> int:
        """Cycles of the whole network."""
        return self.counters.cycles

    @property
    def seconds(self) -> float:
        """Time of the whole network."""
        return self.cycles / self.hardware.clock_hz

    @property
    def joules(self) -> float:
        """Energy of the whole network."""
        return sum(self.energy_pj.values()) * 1e-12

    @property
    def energy_delay_joule_seconds(self) -> float:
        """Energy-delay product."""
        return self.joules * self.seconds

    @property
    def area_mm2(self) -> float:
        """Area of the design."""
        return sum(self.area_um2.values()) * 1e-6

    @property
    def operations(self) -> int:
        """Multiplications and additions of the dense network: what was asked for, whatever was computed."""
        return 2 * self.images * sum(layer.layer.macs for layer in self.layers)

    @property
    def operations_per_joule(self) -> float:
        """Efficiency: `operations` for each joule."""
        return self.operations / self.joules

    @property
    def operations_per_second_mm2(self) -> float:
        """Efficiency of the area: `operations` in a second for each square millimetre."""
        return self.operations / self.seconds / self.area_mm2

    @property
    def utilisation(self) -> float:
        """Share of the multipliers' cycles in which they multiply; four 4-bit products count as one."""
        return utilisation(self.counters, self.hardware)

    def summary(self) -> dict[str, float]:
        """The figures of `SUMMARY`, by name."""
        return {name: getattr(self, name) for name in SUMMARY}

    def as_dict(self) -> dict[str, Any]:
        """All of it, made of what JSON knows."""
        return {
            "network": self.network,
            "noise": self.noise,
            "images": self.images,
            "hardware": self.hardware.model_dump(),
            "technology": self.technology,
            "technology_digest": self.technology_digest,
            "total": self.summary()
            | {
                "counters": asdict(self.counters),
                "energy_pj": self.energy_pj,
                "area_um2": dict(self.area_um2),
            },
            "layers": [
                {
                    "name": one.layer.name,
                    "start_cycle": one.start_cycle,
                    "density": one.density,
                    **self._figures(one.counters, one.energy_pj),
                    "counters": asdict(one.counters),
                    "energy_pj": dict(one.energy_pj),
                }
                for one in self.layers
            ],
        }

    def save_json(self, path: Path) -> None:
        """Write `as_dict`."""
        path.write_text(json.dumps(self.as_dict(), indent=2) + "\n")

    def save_csv(self, path: Path) -> None:
        """Write one line for each layer, and one for the total; energies have the ending "pj"."""
        lines = [(one.layer.name, one.density, one.counters, one.energy_pj) for one in self.layers]
        lines.append(("total", self.density, self.counters, self.energy_pj))
        write_rows(path, [self._row(*line) for line in lines])

    def _row(
        self, name: str, density: float, counters: Counters, energy: Mapping[str, float]
    ) -> dict[str, Any]:
        parts = {f"{part.replace(' ', '_')}_pj": value for part, value in energy.items()}
        figures = self._figures(counters, energy)
        return {"layer": name, "density": density} | figures | asdict(counters) | parts

    def _figures(self, counters: Counters, energy: Mapping[str, float]) -> dict[str, float]:
        """What a layer's counts amount to, or the sum of all."""
        seconds, joules = counters.cycles / self.hardware.clock_hz, sum(energy.values()) * 1e-12
        return {
            "utilisation": utilisation(counters, self.hardware),
            "seconds": seconds,
            "joules": joules,
            "energy_delay_joule_seconds": seconds * joules,
        }

    @property
    def density(self) -> float:
        """Share of all outputs that are computed precisely."""
        outputs = [one.layer.output_values for one in self.layers]
        kept = sum(one.density * size for one, size in zip(self.layers, outputs, strict=True))
        return kept / sum(outputs)


def utilisation(counters: Counters, hardware: Hardware) -> float:
    """Share of the multipliers' cycles in which they multiply."""
    used = counters.multiplications_16x16 + counters.multiplications_4x16 / 4
    return used / (hardware.vector_units * hardware.lanes * counters.cycles)


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A CSV file of rows with the same keys."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
