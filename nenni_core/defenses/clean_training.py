"""No defence: what the others are compared with."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import nn

from nenni_core.defenses.defense import Batch, Defense, Labels, LossAndLogits, StepContext


@dataclass(frozen=True, kw_only=True)
class CleanTraining(Defense):
    """Cross-entropy on the images as they are."""

    title: ClassVar[str] = "Clean training"

    @property
    def select_by(self) -> Literal["robust", "clean"]:
        """The clean accuracy: there is no robust one to speak of."""
        return "clean"

    @property
    def unread(self) -> frozenset[str]:
        """Nothing is attacked."""
        return frozenset({"steps"})

    def search(self, model: nn.Module, x: Batch, y: Labels, context: StepContext) -> Batch:
        """The images themselves."""
        return x

    def loss(
        self, model: nn.Module, x: Batch, x_adv: Batch, y: Labels, context: StepContext
    ) -> LossAndLogits:
        """Mean cross-entropy."""
        logits = model(x_adv).float()
        return F.cross_entropy(logits, y), logits
