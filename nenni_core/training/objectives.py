"""What one training step minimises. A new objective is one function and one entry of `OBJECTIVES`."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from nenni_core.attacks.pgd import pgd
from nenni_core.randomness import held_noise
from nenni_core.training.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class StepContext:
    """What an objective may need beside the batch."""

    recipe: Recipe
    generator: torch.Generator
    """The stream of the attacks, on the device of the batch."""
    epoch: int
    """Counted from 1, for curricula and warm-ups."""
    after_step: ExitStack
    """Closed by the loop once the optimiser has stepped, or when the step fails: an objective that
    changes the weights around the step (adversarial weight perturbation) registers here how they are
    put back."""


Batch = Float[Tensor, "batch channels height width"]
Labels = Int[Tensor, "batch"]
LossAndLogits = tuple[Float[Tensor, ""], Float[Tensor, "batch classes"]]


@dataclass(frozen=True)
class Objective:
    """A loss and the number by which the best epoch is chosen."""

    step: Callable[[nn.Module, Tensor, Tensor, StepContext], LossAndLogits]
    """(model in train mode, images in [0, 1], labels, context) -> (mean loss, logits), both float32.

    It runs inside the recipe's autocast; gradients that it leaves on the parameters are dropped before
    the loop calls `backward` on the loss. The logits are those that the training accuracy counts."""
    select_by: Literal["robust", "clean"]
    """Which validation accuracy chooses the best epoch."""


def clean(model: nn.Module, x: Batch, y: Labels, context: StepContext) -> LossAndLogits:
    """Cross-entropy on the images as they are."""
    logits = model(x).float()
    return F.cross_entropy(logits, y), logits


def adversarial(model: nn.Module, x: Batch, y: Labels, context: StepContext) -> LossAndLogits:
    """Cross-entropy on the images that PGD finds (Madry et al. 2018, Rice et al. 2020).

    The attack runs with the model in *train* mode, as in the public code of Rice et al. (`attack_pgd`
    of their `train_cifar.py`): batch normalisation uses the statistics of the attacked batch, and its
    running averages see every step of the attack as well as the final images. A random model shows the
    attack one draw of its noise, and the loss a fresh one, as it will be evaluated.
    """
    recipe = context.recipe
    with held_noise(model):
        x_adv = pgd(
            model,
            x,
            y,
            eps=recipe.eps,
            step_size=recipe.step_size,
            steps=recipe.steps,
            generator=context.generator,
        )
    return clean(model, x_adv, y, context)


OBJECTIVES: dict[str, Objective] = {
    "clean": Objective(clean, select_by="clean"),
    "adversarial": Objective(adversarial, select_by="robust"),
}
