"""What of a grid computes given numbers, as the command for no more than that."""

from collections.abc import Collection, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from analysis import names
from analysis.remedy import Gap, Network, sweep_of, sync_of_grid

if TYPE_CHECKING:
    from pipeline.experiment import Experiment
    from pipeline.grids import Cell
    from pipeline.selection import Conditions
    from pipeline.sweep_records import Asked


def network_of(experiment: "Experiment") -> Network:
    """The network that an experiment attacks, by the columns of a frame of runs that tell it."""
    network: dict[str, Any] = {
        "model": experiment.pretrain.model,
        "dataset": experiment.prepare.dataset,
        "seed": experiment.seed,
        "trained_by": experiment.pretrain.defense.label,
        "ensemble": experiment.attack.ensemble,
        "pretrain_epochs": experiment.pretrain.epochs,
        "defence": "dense",
    }
    if (noise := experiment.finetune) is not None:
        network |= {
            "defence": "noise_injection",
            "ratio": noise.ratio,
            "pattern": noise.pattern,
            "layer_ratios": noise.layer_ratios_name,
            "objective": noise.objective,
            "target": noise.target,
            "selection": noise.selection,
            "score": noise.score,
            "randomize": experiment.distill.randomize,
            "bits": experiment.distill.bits,
            "projection_ratio": experiment.distill.projection_ratio,
        }
    return network


class Narrowing:
    """Commands for parts of what a sweep was asked for."""

    def __init__(self, asked: "Asked", cells: "Sequence[Cell]", chosen: "Sequence[Cell]") -> None:
        """`cells` are all of the grid, `chosen` those that `asked` is about."""
        self._asked = asked
        self._cells = cells
        self._chosen = {id(cell) for cell in chosen}

    def __call__(self, gaps: Collection[Gap]) -> str | None:
        """What computes the numbers in `gaps` and tracks them; None where no experiment does.

        A part of a grid is tracked as a set of its own; so it is computed without, and then recorded with
        the whole.
        """
        places = [
            place
            for place, network in self._networks.items()
            if any(
                is_of(network) and any(_asks(self._cells[place].experiment, column) for column in columns)
                for is_of, columns in gaps
            )
        ]
        if not places:
            return None
        if len(places) == len(self._networks):
            return sweep_of(self._asked)
        where = tuple(self._conditions.choosing(places))
        part = sweep_of(self._asked.model_copy(update={"where": where}))
        return f"{part} --no-tracking && {sync_of_grid(self._asked)}"

    @cached_property
    def _networks(self) -> dict[int, Network]:
        """By place in the grid: the networks that are to be attacked."""
        return {
            place: network_of(cell.experiment)
            for place, cell in enumerate(self._cells)
            if id(cell) in self._chosen and "attack" in cell.until
        }

    @cached_property
    def _conditions(self) -> "Conditions":
        from pipeline.selection import Conditions

        return Conditions(self._cells)


def _asks(experiment: "Experiment", column: str) -> bool:
    """Whether the attacks of `experiment` give a number, or a verdict, in `column`."""
    attacks = experiment.attack.attacks
    if column in names.MASKING:
        return all(probe in attacks for probe in names.PROBES)
    return column in names.WHOLE or column in attacks
