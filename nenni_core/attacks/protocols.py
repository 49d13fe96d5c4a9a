"""The attacks that belong together: what the paper runs, and what an attacker who knows the defence runs."""

from nenni_core.attacks.spec import AttackSpec

PAPER_EPS = 8 / 255


def paper_protocol(eps: float = PAPER_EPS, step_size: float = 2 / 255) -> tuple[AttackSpec, ...]:
    """The attacks of the paper's section 4.1, low-precision paths blocked; cheap ones first.

    The paper does not print CW's c. The evaluation of Random Projection Filters, which it follows, uses 1e-4.
    "AutoAttack" is what torchattacks calls so: ten steps for each part, where the standard has a hundred.
    """
    return (
        AttackSpec(name="fgsm", kind="fgsm", eps=eps),
        AttackSpec(name="mifgsm", kind="mifgsm", eps=eps, step_size=step_size, steps=5, decay=1.0),
        AttackSpec(name="pgd20", kind="pgd", eps=eps, step_size=step_size, steps=20),
        AttackSpec(name="cw_l2", kind="cw", c=1e-4, confidence=0.0, steps=1000, learning_rate=0.01),
        AttackSpec(name="autoattack_torchattacks", kind="autoattack_torchattacks", eps=eps),
    )


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
    eps: float = PAPER_EPS, *, steps: int = 100, queries: int = 5000, eot_samples: int = 20
) -> tuple[AttackSpec, ...]:
    """What is left of a defence under an attacker who knows it (Tramer et al. 2020, arXiv 2002.08347).

    APGD on the cross-entropy and on the targeted DLR loss (Croce & Hein 2020, arXiv 2003.01690), with
    low-precision paths as the identity and random models averaged over `eot_samples` draws; PGD from the
    dense network (`surrogate` of the evaluation); Square on what has withstood the gradients. The last
    column is the worst case of all but the transfer, which is attacked on all images.
    """
    white_box = ("apgd_ce", "apgd_dlr_targeted")
    ce, dlr = (
        AttackSpec(
            name=name,
            kind=name,
            eps=eps,
            steps=steps,
            gradient="straight_through",
            eot_samples=eot_samples,
            survivors_of=white_box[:place],
        )
        for place, name in enumerate(white_box)
    )
    return (
        AttackSpec(name="transfer", kind="transfer", eps=eps, steps=20, eot_samples=eot_samples),
        ce,
        dlr,
        AttackSpec(
            name="square",
            kind="square",
            eps=eps,
            queries=queries,
            eot_samples=eot_samples,
            survivors_of=white_box,
        ),
    )
