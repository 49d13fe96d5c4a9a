"""Training on the images and on attacked ones at once."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import nn

from nenni_core.defenses.adversarial_training import AdversarialTraining
from nenni_core.defenses.defense import Batch, Labels, LossAndLogits, StepContext
from nenni_core.errors import require


@dataclass(frozen=True, kw_only=True)
class MixedTraining(AdversarialTraining):
    """Base of the defences that weigh the losses at clean and at attacked images, after a clean start.

    The two are forward passes of their own: each has its noise, and its batch normalisation.
    """

    adversarial_weight: float = 0.5
    """Weight of the loss at the attacked images, in [0, 1]; that at the images themselves has the rest."""
    clean_start: float = 0.0
    """Share of the epochs, in [0, 1], that are trained on clean images alone before."""

    def __post_init__(self) -> None:
        for name in ("adversarial_weight", "clean_start"):
            require(name, getattr(self, name), 0 <= getattr(self, name) <= 1, "in [0, 1]")

    def is_clean_start(self, context: StepContext) -> bool:
        """Whether the training has yet to meet attacked images."""
        return context.position < self.clean_start * context.epochs

    def search(self, model: nn.Module, x: Batch, y: Labels, context: StepContext) -> Batch:
        """PGD from a random start; the images themselves at first."""
        return x if self.is_clean_start(context) else super().search(model, x, y, context)

    def loss(
        self, model: nn.Module, x: Batch, x_adv: Batch, y: Labels, context: StepContext
    ) -> LossAndLogits:
        """The weighted mean cross-entropies; the logits are those of what was attacked, if anything was."""
        logits = model(x).float()
        clean = F.cross_entropy(logits, y)
        if self.is_clean_start(context):
            return clean, logits
        logits = model(x_adv).float()
        adversarial = F.cross_entropy(logits, y)
        return (1 - self.adversarial_weight) * clean + self.adversarial_weight * adversarial, logits
