"""The attacks that there are: each one a thin factory over torchattacks and an entry of `ATTACKS`.

A factory only names the knobs. Everything that an attack must not do to its surroundings is closed once,
in `nenni_core.attacks.adapter`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from nenni_core.attacks.spec import AttackSpec
from nenni_core.errors import unknown_choice

Perturb = Callable[[Tensor, Tensor], Tensor]
"""(images in [0, 1], labels) to adversarial images of the same shape."""


@dataclass(frozen=True, kw_only=True)
class AttackKind:
    """How to build an attack, and what the adapter may demand of its result."""

    build: Callable[[nn.Module, AttackSpec, int], Perturb]
    """From (model, spec, number of classes)."""
    norm: Literal["linf"] | None
    """The ball of radius `eps` that the result is checked against; None for minimal-norm attacks."""
    divides_by_gradient: bool = False
    """The attack divides by the size of a sample's gradient, which is 0/0 where that vanishes."""


def _fgsm(model: nn.Module, spec: AttackSpec, num_classes: int) -> Perturb:
    """One signed gradient step of length eps (Goodfellow et al. 2015, arXiv 1412.6572)."""
    from torchattacks import FGSM

    return FGSM(model, eps=spec.eps)


def _pgd(model: nn.Module, spec: AttackSpec, num_classes: int) -> Perturb:
    """Projected signed gradient steps in the linf ball (Madry et al. 2018, arXiv 1706.06083)."""
    from torchattacks import PGD

    return PGD(model, eps=spec.eps, alpha=spec.step_size, steps=spec.steps, random_start=spec.random_start)


def _mifgsm(model: nn.Module, spec: AttackSpec, num_classes: int) -> Perturb:
    """Signed steps along a momentum of normalised gradients (Dong et al. 2018, arXiv 1710.06081)."""
    from torchattacks import MIFGSM

    return MIFGSM(model, eps=spec.eps, alpha=spec.step_size, steps=spec.steps, decay=spec.decay)


ATTACKS: dict[str, AttackKind] = {
    "fgsm": AttackKind(build=_fgsm, norm="linf"),
    "pgd": AttackKind(build=_pgd, norm="linf"),
    "mifgsm": AttackKind(build=_mifgsm, norm="linf", divides_by_gradient=True),
}


def attack_kind(spec: AttackSpec) -> AttackKind:
    """The entry of `ATTACKS` that `spec` asks for; `InputError` with the nearest name if there is none."""
    if spec.kind not in ATTACKS:
        raise unknown_choice("attack", spec.kind, list(ATTACKS))
    return ATTACKS[spec.kind]
