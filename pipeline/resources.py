"""What the stages ask of the machines, and whether a cluster has it."""

import re
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Annotated

from pydantic import Field

from nenni_core.errors import InputError, unknown_choice
from pipeline.config import Section
from pipeline.experiment import STAGES
from pipeline.values import Number, parse_number

ON_GPU = {"pretrain": 1.0, "defend": 1.0, "distill": 0.5, "finetune": 0.5, "attack": 0.5}
"""GPUs that a stage asks for where there are any; `prepare` and `simulate` have no use for one."""
SLACK = 1e-6


class Request(Section):
    """What one stage asks for."""

    cpus: Annotated[Number, Field(gt=0)] = 1.0
    gpus: Annotated[Number, Field(ge=0)] = 0.0
    memory_gb: Annotated[Number, Field(ge=0)] = 0.0

    @property
    def threads(self) -> int:
        """CPU threads of PyTorch in such a stage. Their number can change how sums are rounded."""
        return max(1, int(self.cpus))

    def for_ray(self) -> dict[str, float]:
        """As Ray names it."""
        asked = {"cpu": self.cpus}
        if self.gpus:
            asked["gpu"] = self.gpus
        if self.memory_gb:
            asked["memory"] = self.memory_gb * 1e9
        return asked


def requests(given: Mapping[str, Request], *, gpus: float) -> dict[str, Request]:
    """The request of every stage: as `given`; what that leaves open, a core, and with `gpus` one or half."""
    found = {}
    for stage in STAGES:
        request = given.get(stage, Request())
        usual = ON_GPU.get(stage, 0.0) if gpus else 0.0
        said = "gpus" in request.model_fields_set
        found[stage] = request if said else request.model_copy(update={"gpus": usual})
    return found


def parse_requests(texts: Sequence[str]) -> dict[str, Request]:
    """`attack=cpus:2,gpus:0.5` texts as requests by stage; `InputError` for one that is not of that form."""
    found: dict[str, Request] = {}
    for text in texts:
        stage, equals, rest = text.partition("=")
        if not equals or not rest:
            raise InputError(f"--resources {text!r}: expected something like attack=cpus:2,gpus:0.5")
        if stage not in STAGES:
            raise unknown_choice("stage in --resources", stage, list(STAGES))
        values: dict[str, float] = {}
        for part in rest.split(","):
            name, colon, amount = part.partition(":")
            if not colon:
                raise InputError(f"--resources {text!r}: expected a resource and an amount, such as cpus:2")
            if name not in Request.model_fields:
                raise unknown_choice("resource in --resources", name, list(Request.model_fields))
            try:
                values[name] = parse_number(amount)
            except ValueError as error:
                raise InputError(f"--resources {text!r}: {error}") from None
            if not isfinite(values[name]) or values[name] < 0 or (name == "cpus" and values[name] == 0):
                least = "more than 0" if name == "cpus" else "0 or more"
                raise InputError(f"--resources {text!r}: {name} is {amount}; expected a number, {least}")
        if (gpus := values.get("gpus", 0.0)) > 1 and gpus != int(gpus):
            raise InputError(f"--resources {text!r}: expected a part of one GPU, or a whole number of GPUs")
        found[stage] = Request(**values)
    return found


class Capacity:
    """What of the machines is free, by their own account: Ray decides on which a stage runs."""

    def __init__(self, nodes: Sequence[Mapping[str, float]]) -> None:
        """`nodes`: what each machine has, by Ray's names (`CPU`, `GPU`, `memory` in bytes)."""
        self.update(nodes)
        self._taken: dict[str, float] = {}

    def update(self, nodes: Sequence[Mapping[str, float]]) -> None:
        """Machines came or went."""
        self._nodes = [{name.lower(): amount for name, amount in node.items()} for node in nodes]
        self._total = {
            name: sum(node.get(name, 0.0) for node in self._nodes) for name in ("cpu", "gpu", "memory")
        }

    @property
    def cores(self) -> float:
        """CPU cores of all machines."""
        return self._total["cpu"]

    @property
    def gpus(self) -> float:
        """GPUs of all machines."""
        return self._total["gpu"]

    def fits(self, request: Request) -> bool:
        """Whether so much is free, on all machines together."""
        asked = request.for_ray().items()
        return all(self._taken.get(name, 0.0) + value <= self._total[name] + SLACK for name, value in asked)

    def take(self, request: Request) -> None:
        """A stage has started."""
        for name, value in request.for_ray().items():
            self._taken[name] = self._taken.get(name, 0.0) + value

    def give(self, request: Request) -> None:
        """A stage has ended."""
        for name, value in request.for_ray().items():
            self._taken[name] -= value

    def check(self, stage: str, request: Request) -> None:
        """Raise `InputError` if no single machine has what a stage asks for: it would wait for ever."""
        asked = request.for_ray()
        if any(all(node.get(n, 0.0) + SLACK >= v for n, v in asked.items()) for node in self._nodes):
            return
        wanted = ", ".join(f"{_amount(name, value)}" for name, value in asked.items())
        has = "; ".join(sorted({_machine(node) for node in self._nodes})) or "none"
        raise InputError(f"the stage {stage!r} asks for {wanted}; expected what one machine has: {has}")


def _amount(name: str, value: float) -> str:
    return f"{value / 1e9:.1f} GB of memory" if name == "memory" else f"{value:g} {name.upper()}"


def _machine(node: Mapping[str, float]) -> str:
    return ", ".join(_amount(name, node.get(name, 0.0)) for name in ("cpu", "gpu", "memory"))


def parse_duration(text: str) -> float:
    """`90`, `90s`, `30min`, `2h` or `1.5d` in seconds; `InputError` for anything else.

    >>> parse_duration("90"), parse_duration("1.5h")
    (90.0, 5400.0)
    """
    units = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-z]*)\s*", text)
    if found is None or found[2] not in units or float(found[1]) == 0:
        raise InputError(f"{text!r} is no duration; expected something like 90s, 30min or 2h")
    return float(found[1]) * units[found[2]]
