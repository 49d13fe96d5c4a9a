"""The attacks that there are: each one a thin factory, mostly over torchattacks, and an entry of `ATTACKS`.

A factory only names the knobs. Everything that an attack must not do to its surroundings is closed once,
in `nenni_core.attacks.adapter`.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from torch import Tensor, nn

from nenni_core.attacks.auto_pgd import DLR_CLASSES, apgd_ce, apgd_dlr_targeted, target_ranks
from nenni_core.attacks.black_box import square, transfer
from nenni_core.attacks.carlini_wagner import carlini_wagner
from nenni_core.attacks.deepfool import deepfool
from nenni_core.attacks.fab import fab_targeted
from nenni_core.attacks.setting import Perturb, Setting
from nenni_core.attacks.spec import AttackSpec
from nenni_core.errors import InputError, unknown_choice


def _no_parts(spec: AttackSpec, num_classes: int) -> tuple[AttackSpec, ...]:
    return ()


@dataclass(frozen=True, kw_only=True)
class AttackKind:
    """How to build an attack, and what the adapter may demand of its result."""

    build: Callable[[nn.Module, AttackSpec, Setting], Perturb] | None
    """From the model as the adapter shows it, the knobs and the circumstances; None if it is all `parts`."""
    reads: tuple[str, ...]
    """The knobs of `AttackSpec` that change the result."""
    norm: Literal["linf"] | None
    """The ball of radius `eps` that the result is checked against; None for minimal-norm attacks."""
    divides_by_gradient: bool = False
    """The attack divides by the size of a sample's gradient, which is 0/0 where that vanishes."""
    min_classes: int = 2
    """The fewest classes that its loss is defined for."""
    needs_surrogate: bool = False
    """It is made on another network than the one that it is for."""
    averages: bool = False
    """It can average over the draws of a random model; one that cannot sees one draw, held."""
    parts: Callable[[AttackSpec, int], tuple[AttackSpec, ...]] = _no_parts
    """The attacks that it consists of, from its knobs and the number of classes: each is run on the images
    that those before it have left standing. Empty for an attack of one part."""
    without_gradients: bool = False
    """It asks for outputs alone, of this model or of another, or has a part that does."""
    deterministic_only: bool = False
    """It is defined for deterministic models alone, and refused for others."""


def _fgsm(model: nn.Module, spec: AttackSpec, setting: Setting) -> Perturb:
    """One signed gradient step of length eps (Goodfellow et al. 2015, arXiv 1412.6572)."""
    from torchattacks import FGSM

    return FGSM(model, eps=spec.eps)


def _pgd(model: nn.Module, spec: AttackSpec, setting: Setting) -> Perturb:
    """Projected signed gradient steps in the linf ball (Madry et al. 2018, arXiv 1706.06083)."""
    from torchattacks import PGD

    return PGD(model, eps=spec.eps, alpha=spec.step_size, steps=spec.steps, random_start=spec.random_start)


def _mifgsm(model: nn.Module, spec: AttackSpec, setting: Setting) -> Perturb:
    """Signed steps along a momentum of normalised gradients (Dong et al. 2018, arXiv 1710.06081)."""
    from torchattacks import MIFGSM

    return MIFGSM(model, eps=spec.eps, alpha=spec.step_size, steps=spec.steps, decay=spec.decay)


def _cw(model: nn.Module, spec: AttackSpec, setting: Setting) -> Perturb:
    """A minimal l2 perturbation by Adam (Carlini & Wagner 2017, arXiv 1608.04644)."""

    def perturb(x: Tensor, y: Tensor) -> Tensor:
        return carlini_wagner(
            model,
            x,
            y,
            c=spec.c,
            confidence=spec.confidence,
            steps=spec.steps,
            learning_rate=spec.learning_rate,
        )

    return perturb


def _deepfool(model: nn.Module, spec: AttackSpec, setting: Setting) -> Perturb:
    """Steps to the nearest linearised boundary in l2 (Moosavi-Dezfooli et al. 2016, arXiv 1511.04599)."""

    def perturb(x: Tensor, y: Tensor) -> Tensor:
        return deepfool(
            model, x, y, num_classes=setting.num_classes, steps=spec.steps, overshoot=spec.overshoot
        )

    return perturb


def _every_target(spec: AttackSpec, num_classes: int) -> tuple[AttackSpec, ...]:
    if spec.target:
        return ()
    return tuple(replace(spec, target=rank) for rank in target_ranks(num_classes))


def _autoattack_torchattacks(spec: AttackSpec, num_classes: int) -> tuple[AttackSpec, ...]:
    """What torchattacks calls AutoAttack: APGD-CE, APGD-T and FAB-T of ten steps each, and Square.

    The targets are all other classes.
    """
    part = replace(spec, steps=10, queries=5000)
    ranks = range(1, num_classes)
    return (
        replace(part, kind="apgd_ce"),
        *(replace(part, kind="apgd_dlr_targeted", target=rank) for rank in ranks),
        *(replace(part, kind="fab_targeted", target=rank) for rank in ranks),
        replace(part, kind="square"),
    )


def _autoattack_standard(model: nn.Module, spec: AttackSpec, setting: Setting) -> Perturb:
    """The standard AutoAttack (Croce & Hein 2020, arXiv 2003.01690), for deterministic models."""
    from pyautoattack import AutoAttack

    def perturb(x: Tensor, y: Tensor) -> Tensor:
        attack = AutoAttack(model, eps=spec.eps, norm="Linf", seed=setting.seed % 2**32, device=x.device)
        # it warns of what the verdict on masked gradients tests, in a logger of the whole process
        attack.logger = logging.Logger("autoattack", logging.CRITICAL)
        targets = len(target_ranks(setting.num_classes))
        attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = targets
        return attack.run_standard_evaluation(x, y, batch_size=len(x))[0]

    return perturb


ATTACKS: dict[str, AttackKind] = {
    "fgsm": AttackKind(build=_fgsm, reads=("eps", "gradient"), norm="linf"),
    "pgd": AttackKind(
        build=_pgd, reads=("eps", "step_size", "steps", "random_start", "gradient"), norm="linf"
    ),
    "mifgsm": AttackKind(
        build=_mifgsm,
        reads=("eps", "step_size", "steps", "decay", "gradient"),
        norm="linf",
        divides_by_gradient=True,
    ),
    "cw": AttackKind(build=_cw, reads=("c", "confidence", "steps", "learning_rate", "gradient"), norm=None),
    "deepfool": AttackKind(build=_deepfool, reads=("steps", "overshoot", "gradient"), norm=None),
    "autoattack_torchattacks": AttackKind(
        build=None,
        parts=_autoattack_torchattacks,
        reads=("eps", "gradient"),
        without_gradients=True,
        norm="linf",
        min_classes=DLR_CLASSES,
    ),
    "autoattack_standard": AttackKind(
        build=_autoattack_standard,
        reads=("eps", "gradient"),
        without_gradients=True,
        norm="linf",
        min_classes=DLR_CLASSES,
        deterministic_only=True,
    ),
    "apgd_ce": AttackKind(
        build=apgd_ce, reads=("eps", "steps", "eot_samples", "gradient"), norm="linf", averages=True
    ),
    "apgd_dlr_targeted": AttackKind(
        build=apgd_dlr_targeted,
        parts=_every_target,
        reads=("eps", "steps", "target", "eot_samples", "gradient"),
        norm="linf",
        averages=True,
    ),
    "fab_targeted": AttackKind(
        build=fab_targeted,
        parts=_every_target,
        reads=("eps", "steps", "target", "gradient"),
        norm="linf",
        divides_by_gradient=True,
    ),
    "square": AttackKind(
        build=square,
        reads=("eps", "queries", "eot_samples"),
        norm="linf",
        averages=True,
        without_gradients=True,
    ),
    "transfer": AttackKind(
        build=transfer,
        reads=("eps", "step_size", "steps", "random_start", "eot_samples"),
        norm="linf",
        needs_surrogate=True,
        averages=True,
        without_gradients=True,
    ),
}


def attack_kind(spec: AttackSpec) -> AttackKind:
    """The entry of `ATTACKS` that `spec` asks for; `InputError` with the nearest name if there is none."""
    if spec.kind not in ATTACKS:
        raise unknown_choice("attack", spec.kind, list(ATTACKS))
    return ATTACKS[spec.kind]


def check_classes(spec: AttackSpec, num_classes: int) -> None:
    """`InputError` if the attack is not defined for so few classes."""
    fewest = attack_kind(spec).min_classes
    if num_classes < fewest:
        raise InputError(
            f"attack {spec.name}: {spec.kind!r} needs {fewest} classes or more, not {num_classes}"
        )
    if spec.target >= num_classes:
        raise InputError(
            f"attack {spec.name}: target is {spec.target}, expected at most {num_classes - 1}, "
            "the number of other classes"
        )


def defined_for(attacks: Iterable[AttackSpec], *, num_classes: int, random: bool) -> list[AttackSpec]:
    """Those of `attacks` that exist for so many classes, and for a random or a deterministic model."""

    def is_defined(spec: AttackSpec) -> bool:
        kind = attack_kind(spec)
        return num_classes >= kind.min_classes and not (random and kind.deterministic_only)

    return [spec for spec in attacks if is_defined(spec)]


def check_kind_of_model(spec: AttackSpec, *, random: bool) -> None:
    """`InputError` if the attack is not defined for random models, or not as it is configured."""
    kind = attack_kind(spec)
    if random and kind.deterministic_only:
        raise InputError(
            f"attack {spec.name}: {spec.kind!r} is defined for deterministic models, and this one is random; "
            "expected 'apgd_ce', 'apgd_dlr_targeted' or 'square', which average over its draws"
        )
    if random and spec.eot_samples > 1 and not kind.averages:
        raise InputError(
            f"attack {spec.name}: eot_samples is {spec.eot_samples}, expected 1: {spec.kind!r} sees one draw"
        )


def counts_in_worst_case(spec: AttackSpec) -> bool:
    """Whether an image that the attack fools is lost in the worst case of all attacks on it."""
    return spec.in_worst_case and attack_kind(spec).norm is not None


def fields_read(kind: str, values: Mapping[str, Any]) -> tuple[str, ...]:
    """Which of an attack's fields (`AttackSpec`, with these `values`) its result depends on."""
    fields = list(ATTACKS[kind].reads)
    if values["survivors_of"]:
        fields.append("survivors_of")
    if not values["in_worst_case"]:
        fields.append("in_worst_case")
    return tuple(fields)


def settings_of(spec: AttackSpec) -> dict[str, Any]:
    """What of `spec` its result depends on, as plain JSON types."""
    values = asdict(spec)
    settings = {name: values[name] for name in ("name", "kind", *fields_read(spec.kind, values))}
    return settings | ({"survivors_of": list(spec.survivors_of)} if spec.survivors_of else {})
