"""Cycles of a systolic array as SCALE-Sim counts them, in closed form: a yardstick for dense layers.

SCALE-Sim (Samajdar et al. 2018, arXiv 1811.02883; ISPASS 2020) steps through an array of `rows` x `columns`
multipliers. These are the cycles that version 3.0.0 reports with all data in place ("Total Cycles", bandwidth
mode CALC). Its authors' formula (ISPASS 2020) has 2 * rows in place of rows for the output-stationary array
too: it lets the outputs drain before the next fold, which the tool does not.
"""

from collections.abc import Callable, Sequence
from math import ceil
from typing import Literal

from hwsim.errors import InputError
from hwsim.layers import Layer

Dataflow = Literal["os", "ws"]
"""What stays in the array: outputs or weights."""


def output_stationary_cycles(layer: Layer, rows: int, columns: int, images: int = 1) -> int:
    """Cycles with outputs that stay in the array: positions along its rows, channels along its columns.

    The groups of a grouped convolution run one after the other, each as a layer of its own.
    """
    _check(rows, columns, images)
    folds = ceil(layer.positions * images / rows) * ceil(layer.outputs_per_group / columns)
    return layer.groups * (folds * (layer.inputs_per_output + rows + columns - 2) - 1)


def weight_stationary_cycles(layer: Layer, rows: int, columns: int, images: int = 1) -> int:
    """Cycles with weights that stay in the array: inputs along its rows, channels along its columns.

    The groups of a grouped convolution run one after the other, each as a layer of its own.
    """
    _check(rows, columns, images)
    folds = ceil(layer.inputs_per_output / rows) * ceil(layer.outputs_per_group / columns)
    return layer.groups * (folds * (layer.positions * images + 2 * rows + columns - 2) - 1)


CYCLES: dict[Dataflow, Callable[..., int]] = {
    "os": output_stationary_cycles,
    "ws": weight_stationary_cycles,
}
"""The closed form of each dataflow."""


def network_cycles(
    layers: Sequence[Layer], dataflow: Dataflow, rows: int, columns: int, images: int = 1
) -> int:
    """Cycles of all layers, one after the other."""
    return sum(CYCLES[dataflow](layer, rows, columns, images) for layer in layers)


def _check(rows: int, columns: int, images: int) -> None:
    for name, value in {"rows": rows, "columns": columns, "images": images}.items():
        if value < 1:
            raise InputError(f"{name} is {value}; expected a count from 1 on")
