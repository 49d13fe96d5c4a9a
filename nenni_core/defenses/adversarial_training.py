"""Adversarial training, of the network as it is or of one that a defence builds differently."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import nn

from nenni_core.attacks.pgd import pgd
from nenni_core.defenses.defense import Batch, Defense, Labels, LossAndLogits, StepContext
from nenni_core.errors import unknown_choice
from nenni_core.randomness import held_noise

OBJECTIVES = ("clean", "adversarial")


@dataclass(frozen=True, kw_only=True)
class AdversarialTraining(Defense):
    """Cross-entropy on the images that PGD finds (Madry et al. 2018; as Rice et al. 2020, arXiv 2002.11569).

    The attack runs with the model in *train* mode, as in the public code of Rice et al. (`attack_pgd` of
    their `train_cifar.py`): batch normalisation uses the statistics of the attacked batch, and its running
    averages see every step of the attack as well as the final images. A random model shows the attack one
    draw of its noise, and the loss a fresh one, as it will be evaluated.
    """

    title: ClassVar[str] = "Overfitting Adversarial Training (Rice et al., 2020)"

    def search(self, model: nn.Module, x: Batch, y: Labels, context: StepContext) -> Batch:
        """PGD from a random start."""
        with held_noise(model):
            return pgd(
                model,
                x,
                y,
                eps=context.eps,
                step_size=context.step_size,
                steps=context.steps,
                generator=context.generator,
            )

    def loss(
        self, model: nn.Module, x: Batch, x_adv: Batch, y: Labels, context: StepContext
    ) -> LossAndLogits:
        """Mean cross-entropy at the attacked images."""
        logits = model(x_adv).float()
        return F.cross_entropy(logits, y), logits


@dataclass(frozen=True, kw_only=True)
class ChosenTraining(AdversarialTraining):
    """Base of the defences that are trained adversarially, or on clean images if wanted.

    `choice` names the field that says which of `OBJECTIVES` it is.
    """

    choice: ClassVar[str]

    def __post_init__(self) -> None:
        value = getattr(self, self.choice)
        if value not in OBJECTIVES:
            raise unknown_choice(self.choice, value, list(OBJECTIVES))

    @property
    def trains_clean(self) -> bool:
        """Whether the images are trained on as they are."""
        return bool(getattr(self, self.choice) == "clean")

    @property
    def select_by(self) -> Literal["robust", "clean"]:
        """The accuracy on what the network is trained on."""
        return "clean" if self.trains_clean else "robust"

    @property
    def unread(self) -> frozenset[str]:
        """On clean images nothing is attacked."""
        return frozenset({"steps"} if self.trains_clean else ())

    def search(self, model: nn.Module, x: Batch, y: Labels, context: StepContext) -> Batch:
        """PGD from a random start, or the images themselves."""
        return x if self.trains_clean else super().search(model, x, y, context)


@dataclass(frozen=True, kw_only=True)
class ModifiedNetwork(ChosenTraining):
    """Base of the defences that are another network."""

    choice: ClassVar[str] = "objective"

    objective: str = "adversarial"
    """What the network is trained on: "adversarial" or "clean" images."""
