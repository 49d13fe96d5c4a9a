"""What to run where numbers are missing: first what is fast, then what computes."""

import os
import shlex
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nenni_core.errors import InputError

if TYPE_CHECKING:
    from pipeline.sweep_records import Asked


Network = Mapping[str, Any]
"""A network that is asked for: some columns of a frame of runs."""
Gap = tuple[Callable[[Network], bool], Collection[str]]
"""Numbers that are missing: of which networks, in which columns."""


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """Two commands, in the order in which they are worth a try."""

    sync: str  # tracks what the store has already: seconds
    compute: str  # computes and tracks what the store has not
    file_is_known: bool = True  # whether the commands name the set's own parameter file
    narrowed: Callable[[Collection[Gap]], str | None] | None = None
    """What computes the gaps and no more than need be; None where no experiment of the set does."""

    def computing(self, gaps: Collection[Gap]) -> str | None:
        """The shortest computation that is known to fill `gaps`; None where no experiment of the set does."""
        return self.compute if self.narrowed is None else self.narrowed(gaps)

    def advice(self, gaps: Collection[Gap]) -> str:
        """What to run for `gaps`, in words."""
        compute = self.computing(gaps)
        rest = "no experiment of this set computes the rest" if compute is None else self._rest(compute)
        return f"`{self.sync}` records what the store has already (seconds), {rest}"

    def __str__(self) -> str:
        return f"`{self.sync}` records what the store has already (seconds), {self._rest(self.compute)}"

    def _rest(self, compute: str) -> str:
        whose = "" if self.file_is_known else " (FILE: the parameter file that this set was made with)"
        return f"`{compute}` computes the rest{whose}"


def remedy_for(params: Path) -> Remedy:
    """The commands for the set in the parameter file `params`."""
    named = f"--params {shlex.quote(str(params))}"
    pipeline = params.parent / "dvc.yaml"
    if not _runs(pipeline, params):
        compute = f"python -m pipeline.stages.attack {named}"
    elif params.parent.resolve() == Path.cwd():
        compute = "dvc repro"
    else:
        compute = f"dvc repro {shlex.quote(os.path.relpath(pipeline))}"
    return Remedy(sync=f"python -m pipeline.tracking sync {named}", compute=compute)


def remedy_for_grid(
    asked: "Asked", narrowed: Callable[[Collection[Gap]], str | None] | None = None
) -> Remedy:
    """The commands for a sweep."""
    return Remedy(sync=sync_of_grid(asked), compute=sweep_of(asked), narrowed=narrowed)


def sync_of_grid(asked: "Asked") -> str:
    """What tracks the results of a sweep that the store has."""
    from pipeline.sweep_options import options_of

    return f"python -m pipeline.tracking sync {options_of(asked)}"


def sweep_of(asked: "Asked") -> str:
    """What computes and tracks a sweep."""
    from pipeline.sweep_options import options_of

    return f"python -m pipeline.sweep {options_of(asked)}"


DEFAULT = Remedy(sync="python -m pipeline.tracking sync --params params.yaml", compute="dvc repro")
"""For the repository's own parameter file."""
OTHER_FILE = Remedy(
    sync="python -m pipeline.tracking sync --params FILE",
    compute="python -m pipeline.stages.attack --params FILE",
    file_is_known=False,
)
"""For a set that is not the one in the parameter file at hand."""


def _runs(pipeline: Path, params: Path) -> bool:
    """Whether a command in the `dvc.yaml` at `pipeline` computes the set of `params`."""
    from pipeline.values import read_yaml

    try:
        stages = read_yaml(pipeline).get("stages")
    except InputError:
        return False
    for stage in stages.values() if isinstance(stages, dict) else ():
        if isinstance(stage, dict):
            # DVC runs a command in `wdir`, which is relative to the folder of the dvc.yaml
            folder = pipeline.parent / str(stage.get("wdir", "."))
            if any((folder / named).resolve() == params.resolve() for named in _named(stage.get("cmd"))):
                return True
    return False


def _named(commands: Any) -> list[str]:
    """What the `--params` of a stage's command or commands are."""
    found = []
    for command in commands if isinstance(commands, list) else [commands]:
        words = str(command or "").split()
        found += [value for option, value in pairwise(words) if option == "--params"]
    return found
