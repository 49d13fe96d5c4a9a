"""Attacks over a grid of radii, steps and other knobs, written as one entry of a parameter file."""

from collections.abc import Mapping
from itertools import product
from typing import Any

from nenni_core.errors import InputError
from pipeline.values import parse_number

NAMES_OF_OTHERS = "survivors_of"
"""The knob of an attack that is a list anyway."""
PIXELS = ("eps", "step_size")
"""Knobs that names give in steps of 1/255: 8/255 is 8."""


def expanded_attacks(attacks: Mapping[Any, Any]) -> dict[Any, Any]:
    """The attacks with a list in a knob replaced by one for each value, every combination of several lists.

    >>> sorted(expanded_attacks({"pgd{steps}_eps{eps}": {"eps": ["8/255"], "steps": [10, 20]}}))
    ['pgd10_eps8', 'pgd20_eps8']

    Raises `InputError` if the name of an attack with a list does not say where its values go, or if two
    attacks get one name.
    """
    found: dict[Any, Any] = {}
    for name, knobs in attacks.items():
        for single_name, single in _each(name, knobs):
            if single_name in found:
                raise InputError(f"attacks: two attacks are called {single_name!r}")
            found[single_name] = single
    return found


def _each(name: Any, knobs: Any) -> list[tuple[Any, Any]]:
    lists = (
        {knob: value for knob, value in knobs.items() if isinstance(value, list) and knob != NAMES_OF_OTHERS}
        if isinstance(knobs, Mapping)
        else {}
    )
    if not lists:
        return [(name, knobs)]
    for knob, values in lists.items():
        if f"{{{knob}}}" not in str(name):
            raise InputError(
                f"attacks.{name}.{knob} is a list; expected a name that says where its values go, such as "
                f"{name}_{{{knob}}}"
            )
        if not values:
            raise InputError(f"attacks.{name}.{knob}: expected at least one value")
    return [
        (_named(str(name), chosen), {**knobs, **chosen})
        for values in product(*lists.values())
        for chosen in [dict(zip(lists, values, strict=True))]
    ]


def _named(name: str, chosen: Mapping[str, Any]) -> str:
    for knob, value in chosen.items():
        name = name.replace(f"{{{knob}}}", _shown(knob, value))
    return name


def _shown(knob: str, value: Any) -> str:
    """A value inside a name, which is made of a-z, 0-9 and _."""
    try:
        number = parse_number(value)
    except ValueError:
        number = value  # true or false, a word, or something that the validation of the attack will name
    if isinstance(number, bool) or not isinstance(number, int | float):
        return str(number).lower()
    number = round(number * 255, 6) if knob in PIXELS else number
    exact = str(int(number)) if number == int(number) else repr(float(number))
    return exact.replace(".", "_").replace("-", "minus")
