"""Two saved results, figure by figure."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwsim.errors import InputError
from hwsim.results import SUMMARY

KINDS = {"energy_pj": "energy, pJ", "area_um2": "area, um2", "counters": "count"}
"""What is there by part, and how a line of it begins."""


@dataclass(frozen=True)
class Difference:
    """A figure of both results."""

    name: str
    first: float
    second: float

    @property
    def ratio(self) -> float | None:
        """The second over the first; None where the first is 0."""
        return self.second / self.first if self.first else None


def load_result(path: Path) -> dict[str, Any]:
    """A result that `run --json` wrote; `InputError` for anything else."""
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise InputError(
            f"{str(path)!r}: {error.strerror}; expected a result written by run --json"
        ) from None
    except ValueError as error:
        raise InputError(f"{path}: not JSON: {error}") from None
    total = content.get("total") if isinstance(content, dict) else None
    if (
        not isinstance(total, dict)
        or not all(isinstance(total.get(name), (int, float)) for name in SUMMARY)
        or not all(_is_numbers(total.get(kind)) for kind in KINDS)
    ):
        raise InputError(f"{path}: not a result of a simulation; expected one written by run --json")
    return content


def _is_numbers(content: Any) -> bool:
    return isinstance(content, dict) and all(isinstance(value, (int, float)) for value in content.values())


def differences(first: dict[str, Any], second: dict[str, Any]) -> list[Difference]:
    """Figures first, then energy and area by part, then all counts."""
    one, other = first["total"], second["total"]
    rows = [Difference(name, one[name], other[name]) for name in SUMMARY]
    for kind, label in KINDS.items():
        names = [name for name in one[kind] if name in other[kind] and name != "cycles"]
        rows += [Difference(f"{label}: {name}", one[kind][name], other[kind][name]) for name in names]
    return rows
