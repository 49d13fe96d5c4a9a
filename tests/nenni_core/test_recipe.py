"""The recipe's defaults are the paper's, its errors name the value, its schedules have their shape."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nenni_core.errors import InputError
from nenni_core.training import Recipe, learning_rate


def test_defaults_are_those_of_rice_et_al() -> None:
    expected = {
        "batch_size": 128,
        "learning_rate": 0.1,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "schedule": "step",
        "milestones": (100, 150),
        "decay": 0.1,
        "eps": 8 / 255,
        "step_size": 2 / 255,
        "steps": 10,
        "crop_padding": 4,
        "flip": True,
    }
    recipe = dataclasses.asdict(Recipe(epochs=200))
    assert {name: recipe[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("epochs", 0, "epochs is 0; expected a value at least 1"),
        ("batch_size", 0, "batch_size is 0"),
        ("learning_rate", 0.0, "learning_rate is 0.0; expected a value above 0"),
        ("learning_rate", float("nan"), "learning_rate is nan"),
        ("momentum", 1.0, r"momentum is 1.0; expected a value in \[0, 1\)"),
        ("weight_decay", -1e-4, "weight_decay is -0.0001"),
        ("decay", 0.0, "decay is 0.0"),
        ("eps", 8.0, "eps is 8.0; expected .* such as 8 / 255"),
        ("step_size", 2.0, "step_size is 2.0"),
        ("steps", -1, "steps is -1"),
        ("validation_steps", 0, "validation_steps is 0"),
        ("crop_padding", -1, "crop_padding is -1"),
        ("milestones", (150, 100), "milestones is .*; expected a value increasing"),
        ("schedule", "onecycle", "unknown schedule 'onecycle'; did you mean 'one_cycle'"),
        ("precision", "float16", "unknown precision 'float16'; .* known: float32, bfloat16"),
    ],
)
def test_a_wrong_value_is_named(field: str, value: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Recipe(**({"epochs": 1} | {field: value}))


def test_the_step_schedule_drops_at_the_start_of_its_epochs() -> None:
    recipe = Recipe(epochs=200)
    rates = {epoch: [learning_rate(recipe, epoch, batch, 391) for batch in (0, 390)] for epoch in range(200)}
    assert all(r == [0.1, 0.1] for epoch, r in rates.items() if epoch < 100)
    assert all(r == pytest.approx([0.01, 0.01]) for epoch, r in rates.items() if 100 <= epoch < 150)
    assert all(r == pytest.approx([0.001, 0.001]) for epoch, r in rates.items() if epoch >= 150)


@given(epochs=st.integers(1, 40), batches=st.integers(2, 30))
def test_one_cycle_rises_to_its_peak_and_falls_back(epochs: int, batches: int) -> None:
    recipe = Recipe(epochs=epochs, schedule="one_cycle", learning_rate=0.2)
    rates = [
        learning_rate(recipe, epoch, batch, batches) for epoch in range(epochs) for batch in range(batches)
    ]
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert 0 < min(rates) <= max(rates) <= 0.2
    assert abs((top + 0.5) / len(rates) - 0.4) <= 1 / len(rates)
    # The area under a triangle; the midpoint rule errs only in the step that holds the peak.
    assert sum(rates) / len(rates) == pytest.approx(0.1, abs=0.2 / len(rates))


def test_constant_is_constant() -> None:
    recipe = Recipe(epochs=3, schedule="constant", learning_rate=0.03)
    assert {learning_rate(recipe, epoch, batch, 5) for epoch in range(3) for batch in range(5)} == {0.03}
