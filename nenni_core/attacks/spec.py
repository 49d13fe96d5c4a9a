"""What an attack is allowed to do: one frozen record per attack of a protocol."""

import re
from dataclasses import dataclass
from typing import Literal

from nenni_core.errors import InputError


@dataclass(frozen=True, kw_only=True)
class AttackSpec:
    """One attack with its knobs; everything in it changes the result, nothing in it changes only the speed.

    Raises `InputError` for a value outside its range. Whether `kind` exists is checked by `attack_kind`.
    """

    name: str
    """Column name in tables, letters of [a-z0-9_]; it also names the attack's random stream."""
    kind: str
    """Key of `ATTACKS`."""
    eps: float = 8 / 255
    """Radius of the ball around the image, in [0, 1] pixel units."""
    step_size: float = 2 / 255
    """Length of one step, in [0, 1] pixel units; single-step attacks do not read it."""
    steps: int = 20
    """Gradient steps; single-step attacks do not read it."""
    decay: float = 1.0
    """What is kept of the momentum per step; only attacks with momentum read it."""
    random_start: bool = True
    """Start from a uniformly random point of the ball; only PGD reads it."""
    gradient: Literal["blocked", "straight_through"] = "blocked"
    """What the attacker's gradient sees of a low-precision path: nothing, or the identity (BPDA)."""

    def __post_init__(self) -> None:
        """Refuse values outside their ranges."""
        if not re.fullmatch(r"[a-z0-9_]+", self.name):
            raise InputError(
                f"attack name {self.name!r}: expected lower-case letters, digits and underscores"
            )
        if not 0 <= self.eps <= 1:
            raise InputError(f"attack {self.name}: eps is {self.eps}, expected [0, 1], such as 8/255")
        if not 0 < self.step_size <= 1:
            raise InputError(
                f"attack {self.name}: step_size is {self.step_size}, expected (0, 1], such as 2/255"
            )
        if self.steps < 1:
            raise InputError(f"attack {self.name}: steps is {self.steps}, expected at least 1")
        if not self.decay >= 0:  # written so that NaN fails too
            raise InputError(f"attack {self.name}: decay is {self.decay}, expected 0 or more")
        if self.gradient not in ("blocked", "straight_through"):
            raise InputError(
                f"attack {self.name}: gradient is {self.gradient!r}, expected 'blocked' or 'straight_through'"
            )


def paper_protocol() -> tuple[AttackSpec, ...]:
    """FGSM, PGD-20 and MIFGSM with the knobs of the paper's section 4.1, low-precision paths blocked."""
    return (
        AttackSpec(name="fgsm", kind="fgsm"),
        AttackSpec(name="pgd20", kind="pgd", steps=20),
        AttackSpec(name="mifgsm", kind="mifgsm", steps=5, decay=1.0),
    )
