"""What an attack is allowed to do: one frozen record per attack of a protocol."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from nenni_core.errors import InputError


@dataclass(frozen=True, kw_only=True)
class AttackSpec:
    """One attack with its knobs; everything in it changes the result, nothing in it changes only the speed.

    Which knobs an attack reads is said by `AttackKind.reads`. Raises `InputError` for a value outside its
    range. Whether `kind` exists is checked by `attack_kind`.
    """

    name: str
    """Column name in tables, letters of [a-z0-9_]; it also names the attack's random stream."""
    kind: str
    """Key of `ATTACKS`."""
    eps: float = 8 / 255
    """Radius of the ball around the image, in [0, 1] pixel units."""
    step_size: float = 2 / 255
    """Length of one step, in [0, 1] pixel units."""
    steps: int = 20
    """Gradient steps."""
    decay: float = 1.0
    """MIFGSM: what is kept of the momentum per step."""
    random_start: bool = True
    """PGD: start from a uniformly random point of the ball."""
    c: float = 1e-4
    """CW: weight of the misclassification against the squared distance."""
    confidence: float = 0.0
    """CW: by how much another logit is to exceed the label's (kappa)."""
    learning_rate: float = 0.01
    """CW: of Adam."""
    overshoot: float = 0.02
    """DeepFool: how much further than to the linearised boundary a step goes, as a share."""
    queries: int = 5000
    """Square: forward passes per image."""
    target: int = 0
    """Targeted attacks: which other class is aimed at, by rank, 1 for the likeliest; 0 for each in turn."""
    eot_samples: int = 1
    """Random models: noise draws that each gradient (Square: each loss) is the mean over. 1 is the protocol
    of Random Projection Filters: one draw that is held for the whole attack, fresh ones at inference."""
    survivors_of: tuple[str, ...] = ()
    """Earlier attacks of the same evaluation: what one of them has fooled is not attacked again and counts
    as fooled. Random models, which no single draw decides on, are attacked on all images."""
    in_worst_case: bool = True
    """Whether an image that it fools is lost in the worst case. False for attacks that are asked something
    else than the others: another radius, a probe. Minimal-norm attacks, without a radius, never count."""
    gradient: Literal["blocked", "straight_through"] = "blocked"
    """What the attacker's gradient sees of a low-precision path: nothing, or the identity (BPDA)."""

    def __post_init__(self) -> None:
        """Refuse values outside their ranges."""
        if not re.fullmatch(r"[a-z0-9_]+", self.name):
            raise InputError(
                f"attack name {self.name!r}: expected lower-case letters, digits and underscores"
            )
        ranges = {
            "eps": (0 <= self.eps <= 1, "[0, 1], such as 8/255"),
            "step_size": (0 < self.step_size <= 1, "(0, 1], such as 2/255"),
            "steps": (self.steps >= 1, "at least 1"),
            "decay": (self.decay >= 0, "0 or more"),
            "c": (self.c > 0, "above 0"),
            "confidence": (self.confidence >= 0, "0 or more"),
            "learning_rate": (self.learning_rate > 0, "above 0"),
            "overshoot": (self.overshoot >= 0, "0 or more"),
            "queries": (self.queries >= 1, "at least 1"),
            "target": (self.target >= 0, "0 or more"),
            "eot_samples": (self.eot_samples >= 1, "at least 1"),
        }
        for field, (holds, expected) in ranges.items():
            if not holds:  # NaN is in no range either
                raise InputError(
                    f"attack {self.name}: {field} is {getattr(self, field)}, expected {expected}"
                )
        if self.name in self.survivors_of:
            raise InputError(f"attack {self.name}: survivors_of names the attack itself")
        if self.gradient not in ("blocked", "straight_through"):
            raise InputError(
                f"attack {self.name}: gradient is {self.gradient!r}, expected 'blocked' or 'straight_through'"
            )


def in_order(attacks: Iterable[AttackSpec]) -> list[AttackSpec]:
    """The attacks by name, so that the order in which they are given changes nothing; after those they name.

    Raises `InputError` for attacks that wait for each other, or for one that is not there.
    """
    left = {spec.name: spec for spec in sorted(attacks, key=lambda spec: spec.name)}
    ordered: list[AttackSpec] = []
    while left:
        done = {spec.name for spec in ordered}
        ready = [spec for spec in left.values() if done.issuperset(spec.survivors_of)]
        if not ready:
            name, spec = next(iter(left.items()))
            raise InputError(
                f"attacks.{name}.survivors_of is {list(spec.survivors_of)}; "
                "expected names of attacks that do not wait for this one"
            )
        ordered.append(left.pop(ready[0].name))
    return ordered
