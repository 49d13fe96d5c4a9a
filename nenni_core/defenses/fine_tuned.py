"""Base of the defences that change a network which has been trained already."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from nenni_core.defenses.adversarial_training import AdversarialTraining
from nenni_core.defenses.defense import Batch, Labels, StepContext
from nenni_core.errors import require, unknown_choice

BASES = ("clean", "adversarial")


@dataclass(frozen=True, kw_only=True)
class FineTuned(AdversarialTraining):
    """A trained network, changed by `wrap` and then trained on for a few epochs, or for none."""

    starts_trained: ClassVar[bool] = True

    base: str = "adversarial"
    """The defence that has trained the network, and whose loss fine-tunes it: "clean" or "adversarial"."""
    epochs: int = 0
    """Epochs of fine-tuning, at least 0."""
    learning_rate: float = 0.01
    """The highest learning rate of the fine-tuning, above 0."""

    def __post_init__(self) -> None:
        if self.base not in BASES:
            raise unknown_choice("base", self.base, list(BASES))
        require("epochs", self.epochs, self.epochs >= 0, "at least 0")
        require("learning_rate", self.learning_rate, 0 < self.learning_rate < float("inf"), "above 0")

    @property
    def select_by(self) -> Literal["robust", "clean"]:
        """The accuracy on what the network is trained on."""
        return "clean" if self.base == "clean" else "robust"

    @property
    def unread(self) -> frozenset[str]:
        """On clean images nothing is attacked, and in no epochs nothing is trained."""
        unread = {"steps"} if self.base == "clean" else set[str]()
        return frozenset(unread | ({"learning_rate"} if self.epochs == 0 else set[str]()))

    def search(self, model: nn.Module, x: Batch, y: Labels, context: StepContext) -> Batch:
        """PGD from a random start, or the images themselves."""
        return x if self.base == "clean" else super().search(model, x, y, context)
