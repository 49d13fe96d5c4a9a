"""Choosing experiments: conditions on coordinates, alternatives within one."""

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_experiment import TINY

from nenni_core.errors import InputError
from pipeline.experiment import ExperimentSet
from pipeline.grids import Cell
from pipeline.selection import COORDINATES, MOST_CONDITIONS, Conditions, select


@pytest.fixture(scope="module")
def cells() -> list[Cell]:
    content = copy.deepcopy(TINY)
    content["pretrain"]["defense"] = ["adversarial", "trades"]
    content["distill"]["randomize"] = ["fixed", "bank"]
    content["finetune"] |= {"ratio": [0.5, 0.9], "pattern": ["4:8"]}
    return [
        Cell(experiment, ("attack",)) for experiment in ExperimentSet.model_validate(content).experiments()
    ]


@pytest.mark.parametrize("name", COORDINATES)
def test_each_value_of_a_coordinate_chooses_its_experiments(name: str, cells: list[Cell]) -> None:
    of = COORDINATES[name]
    values = {of(cell.experiment) for cell in cells}
    for value in values:
        assert select(cells, [f"{name}={value}"]) == [c for c in cells if of(c.experiment) == value]
    assert select(cells, [f"{name}={value}" for value in values]) == cells


def test_conditions_of_two_coordinates_hold_together(cells: list[Cell]) -> None:
    found = select(iter(cells), ["ratio=.90", "defense=trades", "randomize=bank"])
    assert [cell.experiment.label for cell in found] == ["trades-ratio-0.9-bank-clean"]
    assert {c.experiment.finetune for c in select(cells, ["ratio=dense", "pattern=dense"])} == {None}
    assert select(cells, []) == cells


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        (["modle=resnet18"], "unknown coordinate in --where 'modle'; did you mean 'model'?"),
        (
            ["model=resnet18"],
            "unknown model of this grid in --where 'resnet18'; did you mean 'small_resnet'?",
        ),
        (["ratio=0.8"], "unknown ratio of this grid in --where '0.8'"),
        (["ratio"], "--where 'ratio': expected a coordinate and a value, such as model=resnet18"),
        (["ratio="], "expected a coordinate and a value"),
        (
            ["ratio=0.9", "pattern=4:8"],
            "no experiment of the grid agrees with --where ratio=0.9 --where pattern",
        ),
    ],
)
def test_mistakes_are_named(cells: list[Cell], conditions: list[str], expected: str) -> None:
    with pytest.raises(InputError) as mistake:
        select(cells, conditions)
    assert expected in str(mistake.value)


def test_each_cell_has_conditions_that_choose_it_alone(cells: list[Cell]) -> None:
    found = Conditions(cells)
    for place, cell in enumerate(cells):
        conditions = found.choosing([place])
        assert select(cells, conditions) == [cell]
        assert len(conditions) == 1  # a variant's name is its own within a set
    assert found.choosing(range(len(cells))) == []


@given(data=st.data())
def test_conditions_choose_what_is_wanted_and_as_little_else_as_can_be(
    cells: list[Cell], data: st.DataObject
) -> None:
    several = [
        Cell(cell.experiment.model_copy(update={"seed": seed}), cell.until)
        for seed in (0, 1)
        for cell in cells
    ]
    wanted = data.draw(st.sets(st.integers(0, len(several) - 1), min_size=1, max_size=4))
    conditions = Conditions(several).choosing(wanted)
    assert len(conditions) <= MOST_CONDITIONS
    chosen = select(several, conditions)
    assert all(several[place] in chosen for place in wanted)
    # no coordinate by itself chooses less
    for name, of in COORDINATES.items():
        values = {of(several[place].experiment) for place in wanted}
        assert len(chosen) <= len(select(several, [f"{name}={value}" for value in values]))


def test_a_product_of_values_is_chosen_exactly(cells: list[Cell]) -> None:
    conditions = ["defense=trades", "ratio=0.5", "ratio=0.9", "randomize=bank"]
    wanted = select(cells, conditions)
    assert 1 < len(wanted) < len(cells)
    assert select(cells, Conditions(cells).choosing([cells.index(cell) for cell in wanted])) == wanted
    with pytest.raises(InputError, match="0 experiments"):
        Conditions(cells).choosing([])
