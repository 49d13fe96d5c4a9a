"""Choosing experiments of a grid: `--where model=resnet18 --where ratio=0.9`."""

from collections.abc import Callable, Iterable, Sequence

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


def _normal(text: str) -> str:
    """One text for all ways of writing a number: 0.90 and .9 are 0.9."""
    try:
        return f"{float(text):g}"
    except ValueError:
        return text
