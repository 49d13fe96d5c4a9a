"""How fast a stage ran and how much memory it took: kept beside its results, and no part of them."""

import sys
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter

import torch

from nenni_core.files import write_json

TIMING = "timing.json"
"""File of a stage's output that may differ between two equal computations."""


class Gauge:
    """Measures one stage, from its construction on."""

    def __init__(self, device: torch.device | str) -> None:
        self._device = torch.device(device)
        if self._device.type == "cuda":
            torch.cuda.init()  # there are no statistics before
            torch.cuda.reset_peak_memory_stats(self._device)
        self._start = perf_counter()

    @property
    def seconds(self) -> float:
        """Wall time so far, the work that was sent to the device included."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return perf_counter() - self._start

    @property
    def memory(self) -> dict[str, int]:
        """`peak_memory_bytes`: the most that tensors took on the GPU since the construction.

        On a CPU it is the most that the process has taken since it began; nothing where the system does not
        say that (Windows).
        """
        if self._device.type == "cuda":
            return {"peak_memory_bytes": torch.cuda.max_memory_allocated(self._device)}
        found = _peak_of_process()
        return {} if found is None else {"peak_memory_bytes": found}

    def write(self, out: Path, measured: Mapping[str, float | int | list[float]]) -> None:
        """Write `measured` and the memory as `timing.json` of the output `out`."""
        rounded = {
            name: [round(v, 3) for v in value] if isinstance(value, list) else round(value, 3)
            for name, value in measured.items()
        }
        write_json(out / TIMING, rounded | self.memory)


def _peak_of_process() -> int | None:
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux kilobytes
