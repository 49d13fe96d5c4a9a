"""Where the cycles of a layer went, in whole numbers that add up."""

from collections.abc import Mapping
from dataclasses import dataclass

from hwsim.counters import Counters
from hwsim.hardware import Hardware

MEANINGS = {
    "precise": "multiplying 16 x 16 bits",
    "approximate": "multiplying 4 x 16 bits",
    "alignment": "units without an output channel: the layer has fewer than the core holds",
    "imbalance": "units with nothing left to do while others work",
    "activation port": "waiting for inputs from the activation memory",
    "depth": "waiting until the accumulators can be used again: too little work in a step",
    "projection": "waiting for the projected inputs",
    "selection": "waiting for the mask",
    "drain": "the pipeline empties",
    "dram": "waiting for data from outside",
}
"""What vector units do or wait for; the causes of `Counters`."""


@dataclass(frozen=True)
class Share:
    """One cause."""

    cause: str
    unit_cycles: int
    """Cycles of vector units; those of all causes add up to units x cycles."""
    of_all: float
    meaning: str


def shares(counters: Counters, hardware: Hardware) -> list[Share]:
    """What vector units did in all cycles, in the order of `MEANINGS`."""
    whole = hardware.vector_units * counters.cycles
    of: Mapping[str, int] = counters.unit_cycles | {
        cause: hardware.vector_units * cycles for cause, cycles in counters.stall_cycles.items()
    }
    return [Share(cause, of[cause], of[cause] / whole, meaning) for cause, meaning in MEANINGS.items()]
