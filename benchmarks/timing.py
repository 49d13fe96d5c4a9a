"""Interleaved timing: every round runs every case once, and cases are compared round by round.

On a shared machine the speed drifts within minutes. Cases that are timed one after the other measure
the drift; a ratio taken within one round does not.
"""

import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles

import torch


@dataclass(frozen=True)
class Spread:
    """A median with its quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """The median and the quartiles of `values` (at least one)."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, middle, high = quantiles(values, n=4, method="inclusive")
        return cls(middle, low, high)

    def __format__(self, spec: str) -> str:
        return f"{self.median:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"


@dataclass(frozen=True)
class Timing:
    """What one case took, one entry per round, in the order of the rounds."""

    name: str
    seconds: tuple[float, ...]

    @property
    def spread_s(self) -> Spread:
        """Seconds of one run of the case."""
        return Spread.of(self.seconds)

    def speedup_over(self, base: "Timing") -> Spread:
        """How many times faster than `base`: the ratios within the rounds."""
        return Spread.of([b / s for b, s in zip(base.seconds, self.seconds, strict=True)])


def interleave(
    cases: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 7,
    warmup: int = 1,
    on_round: Callable[[int, int], None] | None = None,
) -> list[Timing]:
    """Time `cases` in `rounds` rounds after `warmup` untimed ones.

    The order rotates from round to round, so that no case always runs after the same neighbour. CUDA
    work is waited for, before and after each run. `on_round` gets (rounds finished, rounds in all).
    """
    if not cases or rounds < 1:
        raise ValueError(f"expected one case and one round at least, got {len(cases)} and {rounds}")
    names = list(cases)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(warmup + rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            _wait_for_device()
            start = time.perf_counter()
            cases[name]()
            _wait_for_device()
            if number >= warmup:
                seconds[name].append(time.perf_counter() - start)
        if on_round is not None and number >= warmup:
            on_round(number - warmup + 1, rounds)
    return [Timing(name, tuple(values)) for name, values in seconds.items()]


def machine() -> dict[str, str | int | float]:
    """What the measurements ran on, without any name of a host or a path."""
    description: dict[str, str | int | float] = {
        "processor": _processor(),
        "usable_cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 0,
        "torch_threads": torch.get_num_threads(),
        "load_average_1min": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else -1.0,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }
    if torch.cuda.is_available():
        description["gpu"] = torch.cuda.get_device_name()
    return description


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with its columns aligned; the first is left-aligned, the others to the right."""
    table = [list(columns), *[list(row) for row in rows]]
    widths = [max(3, *(len(row[i]) for row in table)) for i in range(len(columns))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = [("-" * (width - 1) + ":") if i else "-" * width for i, width in enumerate(widths)]
    return "\n".join([line(table[0]), line(rule), *map(line, table[1:])])


def timing_record(timings: Sequence[Timing], base: str) -> list[dict[str, object]]:
    """The timings as JSON-able rows, each with its speed-up over the case called `base`."""
    by_name = {timing.name: timing for timing in timings}
    return [
        {
            "case": timing.name,
            "seconds": list(timing.seconds),
            "median_s": median(timing.seconds),
            "speedup": asdict(timing.speedup_over(by_name[base])),
        }
        for timing in timings
    ]


def write_json(path: Path, measured: Mapping[str, object]) -> None:
    """Write `measured` and the description of the machine to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine(), **measured}, indent=2) + "\n")


def _wait_for_device() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()
