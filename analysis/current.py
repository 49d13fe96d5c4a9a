"""What the parameter file, or a grid, asks for, to be compared with what is tracked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.narrowing import Narrowing, network_of
from analysis.remedy import Remedy, remedy_for, remedy_for_grid
from nenni_core.errors import InputError

if TYPE_CHECKING:
    from pipeline.config import Tracking
    from pipeline.experiment import Experiment
    from pipeline.sweep_records import Asked


@dataclass(frozen=True, kw_only=True)
class CurrentSet:
    """The set of experiments in a parameter file.

    `networks` are identities as `analysis.tables.robustness.build_table` expects them, `attacks` the names
    of the columns; `key` is the tag `experiment_key` of its parent run; None where the data are not at hand
    here, and then `no_key` says what the matter is.
    """

    experiment: str
    tracking_uri: str | None  # what the file says of where MLflow is
    remedy: Remedy
    key: str | None
    no_key: str
    networks: tuple[Mapping[str, Any], ...]
    attacks: tuple[str, ...]


def read_current_set(params: Path) -> CurrentSet:
    """The set in the parameter file `params`.

    Raises `InputError` if the file cannot be read, `pydantic.ValidationError` if a value in it is wrong.
    """
    from pipeline.experiment import load_parameters

    parameters = load_parameters(params)
    return _current(parameters.experiments(), parameters.tracking, remedy_for(params))


def read_current_grid(asked: "Asked") -> CurrentSet:
    """The experiments that a sweep of a grid computes. Raises `InputError` if there is no such grid."""
    from pipeline.grids import load_grid
    from pipeline.selection import select

    seeds = None if asked.seeds is None else range(asked.seeds)
    grid = load_grid(asked.grid, override=asked.override, seeds=seeds, data=asked.data)
    chosen = select(grid.cells, asked.where)
    remedy = remedy_for_grid(asked, Narrowing(asked, grid.cells, chosen))
    return _current([cell.experiment for cell in chosen], grid.tracking, remedy)


def _current(experiments: "Sequence[Experiment]", tracking: "Tracking", remedy: Remedy) -> CurrentSet:
    from pipeline.runner import plan
    from pipeline.tracking import experiment_key

    key, no_key = None, ""
    try:
        key = experiment_key(plan(experiments))
    except InputError as error:
        no_key = str(error)
    return CurrentSet(
        experiment=tracking.experiment,
        tracking_uri=tracking.uri,
        remedy=remedy,
        key=key,
        no_key=no_key,
        networks=tuple(map(network_of, experiments)),
        attacks=tuple(dict.fromkeys(name for one in experiments for name in one.attack.attacks)),
    )
