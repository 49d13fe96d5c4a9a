"""What to run where numbers are missing: first what is fast, then what computes."""

import os
import shlex
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nenni_core.errors import InputError

if TYPE_CHECKING:
    from pipeline.sweep_records import Asked


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """Two commands, in the order in which they are worth a try."""

    sync: str  # tracks what the store has already: seconds
    compute: str  # computes and tracks what the store has not
    file_is_known: bool = True  # whether the commands name the set's own parameter file

    def __str__(self) -> str:
        whose = "" if self.file_is_known else " (FILE: the parameter file that this set was made with)"
        return (
            f"`{self.sync}` records what the store has already (seconds), "
            f"`{self.compute}` computes the rest{whose}"
        )


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


def remedy_for_grid(asked: "Asked") -> Remedy:
    """The commands for a sweep."""
    from pipeline.sweep_options import options_of

    named = options_of(asked)
    return Remedy(
        sync=f"python -m pipeline.tracking sync {named}", compute=f"python -m pipeline.sweep {named}"
    )


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
