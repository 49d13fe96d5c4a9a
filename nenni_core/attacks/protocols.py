"""The attacks that belong together: what the paper runs, and what an attacker who knows the defence runs."""

from typing import Any

from nenni_core.attacks.kinds import defined_for
from nenni_core.attacks.spec import AttackSpec

PAPER_EPS = 8 / 255


def paper_protocol(
    eps: float = PAPER_EPS, step_size: float = 2 / 255, *, num_classes: int = 10
) -> tuple[AttackSpec, ...]:
    """The attacks of the paper's section 4.1, low-precision paths blocked; cheap ones first.

    The paper does not print CW's c. The evaluation of Random Projection Filters, which it follows, uses 1e-4.
    "AutoAttack" is what torchattacks calls so: ten steps for each part, where the standard has a hundred. It
    needs four classes.
    """
    attacks = (
        AttackSpec(name="fgsm", kind="fgsm", eps=eps),
        AttackSpec(name="mifgsm", kind="mifgsm", eps=eps, step_size=step_size, steps=5, decay=1.0),
        AttackSpec(name="pgd20", kind="pgd", eps=eps, step_size=step_size, steps=20),
        AttackSpec(name="cw_l2", kind="cw", c=1e-4, confidence=0.0, steps=1000, learning_rate=0.01),
        AttackSpec(name="autoattack_torchattacks", kind="autoattack_torchattacks", eps=eps),
    )
    return tuple(defined_for(attacks, num_classes=num_classes, random=False))


def deepfool_protocol() -> tuple[AttackSpec, ...]:
    """The minimal l2 perturbations of the study of sparse networks (Guo et al. 2018, section 4)."""
    return (AttackSpec(name="deepfool", kind="deepfool", steps=50, overshoot=0.02),)


def pgd_grid(
    eps_in_255: tuple[int, ...] = (8, 12, 16), steps: tuple[int, ...] = (10, 20, 50, 100)
) -> tuple[AttackSpec, ...]:
    """PGD for each radius (in 1/255) and number of steps, weak ones first (the paper's figure 3)."""
    return tuple(
        AttackSpec(
            name=f"pgd{count}_eps{radius}", kind="pgd", eps=radius / 255, steps=count, in_worst_case=False
        )
        for radius in eps_in_255
        for count in steps
    )


def adaptive_protocol(
    eps: float = PAPER_EPS,
    *,
    step_size: float = 2 / 255,
    steps: int = 100,
    queries: int = 5000,
    eot_samples: int = 20,
    num_classes: int = 10,
    random: bool = False,
) -> tuple[AttackSpec, ...]:
    """What is left of a defence under an attacker who knows it (Tramer et al. 2020, arXiv 2002.08347).

    PGD from the dense network (`surrogate` of the evaluation); APGD on the cross-entropy and on the targeted
    DLR loss (Croce & Hein 2020, arXiv 2003.01690) with low-precision paths as the identity and random models
    averaged over `eot_samples` draws; Square; and, for deterministic models and four classes or more, the
    standard AutoAttack, again with low-precision paths as the identity. But for the transfer, each is run on
    what those before it have left standing: its column is the worst case so far.
    """
    names = ("apgd_ce", "apgd_dlr_targeted", "square", "autoattack_standard")

    def knowing(place: int, **knobs: Any) -> AttackSpec:
        name = names[place]
        return AttackSpec(name=name, kind=name, eps=eps, survivors_of=names[:place], **knobs)

    through: dict[str, Any] = {"gradient": "straight_through"}
    averaged = through | {"steps": steps, "eot_samples": eot_samples}
    attacks = (
        AttackSpec(
            name="transfer",
            kind="transfer",
            eps=eps,
            step_size=step_size,
            steps=20,
            eot_samples=eot_samples,
        ),
        knowing(0, **averaged),
        knowing(1, **averaged),
        knowing(2, queries=queries, eot_samples=eot_samples),
        knowing(3, **through),
    )
    return tuple(defined_for(attacks, num_classes=num_classes, random=random))
