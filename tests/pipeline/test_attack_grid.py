"""Attacks over a grid: a list stands for one attack with each value, and the names say which."""

from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nenni_core.errors import InputError
from pipeline.attack_grid import expanded_attacks


@given(
    eps=st.lists(st.integers(1, 255), min_size=1, max_size=4, unique=True),
    steps=st.lists(st.integers(1, 10**7), min_size=1, max_size=4, unique=True),
)
def test_every_combination_has_a_name_of_its_own(eps: list[int], steps: list[int]) -> None:
    attacks = {"pgd{steps}_eps{eps}": {"kind": "pgd", "eps": [f"{e}/255" for e in eps], "steps": steps}}
    found = expanded_attacks(attacks)
    assert found == {
        f"pgd{s}_eps{e}": {"kind": "pgd", "eps": f"{e}/255", "steps": s} for e, s in product(eps, steps)
    }


@pytest.mark.parametrize(
    ("knob", "value", "name"),
    [
        ("eps", "0.5/255", "a_0_5"),
        ("eps", 0.3, "a_76_5"),
        ("c", 0.0001, "a_0_0001"),
        ("c", 1.0, "a_1"),
        ("queries", 1234567, "a_1234567"),
        ("random_start", True, "a_true"),
        ("gradient", "blocked", "a_blocked"),
    ],
)
def test_values_in_names_are_made_of_what_names_are(knob: str, value: Any, name: str) -> None:
    assert expanded_attacks({f"a_{{{knob}}}": {"kind": "pgd", knob: [value]}}) == {
        name: {"kind": "pgd", knob: value}
    }


def test_what_has_no_list_stays_as_it_is() -> None:
    attacks = {"fgsm": {"kind": "fgsm"}, "later": {"kind": "pgd", "survivors_of": ["fgsm"]}, "wrong": 7}
    assert expanded_attacks(attacks) == attacks


def test_a_name_stands_for_one_attack() -> None:
    with pytest.raises(InputError, match="two attacks are called 'a2'"):
        expanded_attacks({"a{steps}": {"steps": [1, 2, 2]}})
