"""What a run has tracked of its attacks: their settings, and what follows from those for the tables.

The kinds are those of `nenni_core.attacks`, which results are read without; tests hold the two together.
"""

import json
from collections.abc import Mapping
from functools import lru_cache

from analysis import names

Settings = Mapping[str, str]

# Kinds that an attacker runs who knows the defence, in the order of the steps: from the dense teacher, then
# with gradients, then with outputs only, then the standard of the field.
ADAPTIVE = tuple(names.ADAPTIVE)
# They look for the smallest change that fools, whatever its size.
MINIMAL_NORM = ("cw", "deepfool")
DETERMINISTIC_ONLY = ("autoattack_standard",)
# Attacks (by name) that only the verdict on masked gradients asks.
PROBES = tuple(names.PROBES)
UNBOUNDED = "pgd20_unbounded_probe"
# Values of a network's `randomize` that make it random.
RANDOM = ("bank", "stochastic_rounding")
# Settings that are distances between pixels.
PIXELS = ("eps", "step_size")
# Names under which the paper protocol runs a kind that is called otherwise.
KIND_BY_NAME = {"cw_l2": "cw"}


@lru_cache(maxsize=4096)  # a set has thousands of runs and few protocols
def tracked_settings(params: str | None) -> dict[str, dict[str, str]]:
    """By attack name, from a run's parameters as JSON: {"pgd20": {"kind": "pgd", "eps": "0.031...", ...}}.

    Not to be changed: runs of one protocol share it.
    """
    protocol: dict[str, dict[str, str]] = {}
    for name, value in json.loads(params or "{}").items():
        section, _, rest = name.partition(".")
        attack, _, field = rest.partition(".")
        if section == "attacks" and field:
            protocol.setdefault(attack, {})[field] = value
    return protocol


def kind_of(attack: str, settings: Settings) -> str:
    """The kind of an attack; where it was not tracked, what its name says."""
    return settings.get("kind") or KIND_BY_NAME.get(attack, attack)


def counts_in_worst_case(attack: str, settings: Settings) -> bool:
    """Whether an image that the attack fools is lost in the worst case."""
    asked = settings.get("in_worst_case", "true").lower() != "false"
    return asked and attack not in PROBES and kind_of(attack, settings) not in MINIMAL_NORM


def survivors_of(settings: Settings) -> tuple[str, ...]:
    """The attacks whose survivors alone are attacked; none for an attack on all images."""
    return tuple(json.loads(settings.get("survivors_of", "[]")))


def in_pixels(value: str) -> str:
    """A radius or a step for readers: "0.0313725" as "8/255"; as it is where it is no such fraction."""
    try:
        in_255 = 255 * float(value)
    except ValueError:
        return value
    return f"{round(in_255)}/255" if abs(in_255 - round(in_255)) < 1e-6 else value


def readable(field: str, value: str) -> str:
    """The setting `field` for readers: radii and steps between pixels as fractions, others as they are."""
    return in_pixels(value) if field in PIXELS else value
