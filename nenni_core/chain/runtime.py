"""What changes how fast a stage runs and what it shows, never what its result is: no part of any key."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nenni_core.progress import ProgressCallback, silent

SCRATCH = "checkpoint"
"""Sub-folder of an unfinished output for what a stage needs to continue; not part of the result."""

RecordCallback = Callable[[Mapping[str, float], int], None]
"""Called with (values by name, step) while a stage runs, for live curves."""


def ignore(values: Mapping[str, float], step: int) -> None:
    """A `RecordCallback` for nobody."""


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Where and how a stage runs."""

    device: str = "cpu"
    """Device of models and batches, as PyTorch names it."""
    progress: ProgressCallback = silent
    """Told where the work stands."""
    on_record: RecordCallback = ignore
    """Told of every finished epoch."""
    data_path: Path | None = None
    """Local archive or folder of the data set, instead of a download."""
    compile: bool = False
    """Whether `torch.compile` fuses the operations of networks without injected noise while they are trained.
    It rounds differently, as another device does."""

    @property
    def device_kind(self) -> str:
        """The device without its number: "cuda" for "cuda:1"."""
        return self.device.partition(":")[0]

    def scratch(self, out: Path) -> Path:
        """Where a stage that writes into `out` keeps what it needs to continue.

        Another kind of device begins anew: it would not continue to the same bits.
        """
        return out / SCRATCH / self.device_kind
