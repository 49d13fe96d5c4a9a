"""APGD (Croce & Hein 2020, arXiv 2003.01690) over torchattacks, also for random models and for few classes.

torchattacks judges an image on one noisy forward pass and returns the clean image where that one was right.
For a random model its search is used and its judgement is not: what it has found best is returned, and of
several targets what has the lowest margin over fresh draws.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from nenni_core.attacks.dropping import DroppingSearch
from nenni_core.attacks.margin import mean_margin
from nenni_core.attacks.setting import Perturb, Setting
from nenni_core.attacks.spec import AttackSpec

TARGETS = 9
"""The most target classes that are tried, as in the standard AutoAttack."""
DLR_CLASSES = 4
"""The targeted DLR loss needs the four largest logits."""


def apgd_ce(model: nn.Module, spec: AttackSpec, setting: Setting) -> Perturb:
    """APGD on the cross-entropy, gradients averaged over the draws of a random model."""
    from torchattacks import APGD

    search = DroppingSearch(model, spec.eps)
    attack = APGD(
        model if setting.random else search,
        eps=spec.eps,
        steps=spec.steps,
        loss="ce",
        eot_iter=setting.draws,
        seed=setting.seed,
    )
    if not setting.random:
        return lambda x, y: search.fool(attack.attack_single_run, x, y)
    return best_of_one_draw(attack) if setting.draws == 1 else lambda x, y: attack.attack_single_run(x, y)[0]


def apgd_dlr_targeted(model: nn.Module, spec: AttackSpec, setting: Setting) -> Perturb:
    """APGD on the targeted difference of logits ratio, towards the other class of rank `spec.target`.

    With fewer than four classes that ratio does not exist, and the difference itself is used. For a random
    model `spec.target` may be 0: then all targets are tried and the best image of all is taken.
    """
    from torchattacks import APGDT

    search = DroppingSearch(model, spec.eps)
    attack = APGDT(
        model if setting.random else search,
        eps=spec.eps,
        steps=spec.steps,
        eot_iter=setting.draws,
        seed=setting.seed,
        n_classes=setting.num_classes,
    )
    if setting.num_classes < DLR_CLASSES:
        attack.dlr_loss_targeted = _targeted_difference
    if not setting.random:
        attack.target_class = spec.target + 1  # counted from the label itself
        return lambda x, y: search.fool(attack.attack_single_run, x, y)
    loss = attack.dlr_loss_targeted

    def aim(x: Tensor, y: Tensor, rank: int) -> None:
        """At the other class of this rank in the mean over the draws: in one draw it may be the label."""
        with torch.no_grad():
            mean = torch.stack([model(x) for _ in range(setting.draws)]).mean(dim=0)
        others = mean.scatter(1, y[:, None], -torch.inf).argsort(dim=1, descending=True)
        attack.target_class = rank + 1
        attack.dlr_loss_targeted = lambda logits, labels, _: loss(logits, labels, others[:, rank - 1])

    def one_target(x: Tensor, y: Tensor) -> Tensor:
        aim(x, y, spec.target)
        return best_of_one_draw(attack)(x, y)

    def best_of_all(x: Tensor, y: Tensor) -> Tensor:
        def candidates() -> Iterator[Tensor]:
            for target in (spec.target,) if spec.target else target_ranks(setting.num_classes):
                aim(x, y, target)
                yield attack.attack_single_run(x, y)[0]

        return lowest_mean_margin(model, candidates(), y, setting.draws)

    return one_target if setting.draws == 1 else best_of_all


def best_of_one_draw(attack: Any) -> Perturb:
    """The last iterate that fooled the draw, as the library has it; else the one of highest loss."""

    def perturb(x: Tensor, y: Tensor) -> Tensor:
        highest, right, _, last = attack.attack_single_run(x, y)
        return torch.where(right.bool()[:, None, None, None], highest, last)

    return perturb


def target_ranks(num_classes: int) -> range:
    """The likeliest other classes, by rank from 1, that the standard AutoAttack tries: at most nine."""
    return range(1, min(TARGETS, num_classes - 1) + 1)


def _targeted_difference(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    return (logits.gather(1, target[:, None]) - logits.gather(1, y[:, None])).squeeze(1)


@torch.no_grad()
def lowest_mean_margin(model: nn.Module, candidates: Iterator[Tensor], y: Tensor, draws: int) -> Tensor:
    """Of the candidates for each image the one whose margin, averaged over `draws` passes, is lowest."""
    best: Tensor | None = None
    lowest = torch.full((len(y),), float("inf"), device=y.device)
    for candidate in candidates:
        margin = mean_margin(model, candidate, y, draws)
        better = margin < lowest
        best = (
            candidate.clone() if best is None else torch.where(better[:, None, None, None], candidate, best)
        )
        lowest = torch.minimum(margin, lowest)
    assert best is not None, "there are two classes or more"
    return best
