"""Choosing experiments of a grid: `--where model=resnet18 --where ratio=0.9`."""

from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import combinations

import numpy as np

from nenni_core.errors import InputError, unknown_choice
from pipeline.experiment import Experiment
from pipeline.grids import Cell

DENSE = "dense"
"""The value of a coordinate of noise where there is none."""


def _of_rule(name: str) -> Callable[[Experiment], str]:
    def value(experiment: Experiment) -> str:
        found = None if experiment.finetune is None else getattr(experiment.finetune, name)
        return DENSE if found is None else str(found)

    return value


COORDINATES: dict[str, Callable[[Experiment], str]] = {
    "dataset": lambda experiment: experiment.prepare.dataset,
    "model": lambda experiment: experiment.pretrain.model,
    "defense": lambda experiment: experiment.pretrain.defense.kind,
    "ratio": _of_rule("ratio"),
    "pattern": _of_rule("pattern"),
    "target": _of_rule("target"),
    "objective": _of_rule("objective"),
    "randomize": lambda e: DENSE if e.finetune is None else e.distill.randomize,
    "ensemble": lambda experiment: str(experiment.attack.ensemble),
    "variant": lambda experiment: experiment.label,
    "seed": lambda experiment: str(experiment.seed),
}
"""By what experiments are chosen. `ratio` of a network with a pattern, or without noise, is `dense`."""
MOST_TOGETHER, MOST_CONDITIONS = 3, 12
"""Coordinates, and values of them, that `Conditions` combines: a longer command is no help."""


def parse_conditions(texts: Sequence[str]) -> dict[str, list[str]]:
    """`name=value` texts as values by coordinate; `InputError` for one that is not of that form."""
    wanted: dict[str, list[str]] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not value:
            raise InputError(f"--where {text!r}: expected a coordinate and a value, such as model=resnet18")
        if name not in COORDINATES:
            raise unknown_choice("coordinate in --where", name, list(COORDINATES))
        wanted.setdefault(name, []).append(value)
    return wanted


def select(cells: Iterable[Cell], conditions: Sequence[str]) -> list[Cell]:
    """The cells that agree with all conditions; several values of one coordinate are alternatives.

    Raises `InputError` for a coordinate that does not exist, a value that no cell has, or if nothing is left.
    """
    chosen = everything = list(cells)
    for name, values in parse_conditions(conditions).items():
        coordinate = COORDINATES[name]
        present = list(dict.fromkeys(_normal(coordinate(cell.experiment)) for cell in everything))
        wanted = {_normal(value) for value in values}
        for value in wanted:
            if value not in present:
                raise unknown_choice(f"{name} of this grid in --where", value, present)
        chosen = [cell for cell in chosen if _normal(coordinate(cell.experiment)) in wanted]
    if not chosen:
        raise InputError(f"no experiment of the grid agrees with --where {' --where '.join(conditions)}")
    return chosen


class Conditions:
    """Finds the conditions by which `select` chooses given cells of a grid."""

    def __init__(self, cells: Iterable[Cell]) -> None:
        experiments = [cell.experiment for cell in cells]
        self._count = len(experiments)
        # every value is a number: its place among the values of its coordinate
        self._values: dict[str, list[str]] = {}
        self._codes: dict[str, np.ndarray] = {}
        for name, coordinate in COORDINATES.items():
            texts = [_normal(coordinate(experiment)) for experiment in experiments]
            values = {text: place for place, text in enumerate(dict.fromkeys(texts))}
            self._values[name] = list(values)
            self._codes[name] = np.array([values[text] for text in texts], dtype=np.int64)

    def choosing(self, places: Collection[int]) -> list[str]:
        """Conditions that choose the cells at `places` of the grid, with as few others as can be.

        Of the conditions that do so the fewest, none if all cells are chosen then. Raises `InputError` for no
        places.
        """
        if not places:
            raise InputError("conditions for 0 experiments: expected at least one")
        wanted = np.fromiter(places, dtype=np.int64)
        found = {name: np.unique(codes[wanted]) for name, codes in self._codes.items()}
        masks = {
            name: np.isin(self._codes[name], values)
            for name, values in found.items()
            if len(values) < len(self._values[name])
        }
        best: tuple[tuple[int, int], tuple[str, ...]] = ((self._count, 0), ())
        for size in range(1, MOST_TOGETHER + 1):
            for names in combinations(masks, size):
                conditions = sum(len(found[name]) for name in names)
                chosen = int(np.logical_and.reduce([masks[name] for name in names]).sum())
                if conditions <= MOST_CONDITIONS and (chosen, conditions) < best[0]:
                    best = ((chosen, conditions), names)
        return [f"{name}={self._values[name][value]}" for name in best[1] for value in found[name]]


def _normal(text: str) -> str:
    """One text for all ways of writing a number: 0.90 and .9 are 0.9."""
    try:
        return f"{float(text):g}"
    except ValueError:
        return text
