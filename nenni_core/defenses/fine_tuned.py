"""Base of the defences that change a network which has been trained already."""

from dataclasses import dataclass
from typing import ClassVar

from nenni_core.defenses.adversarial_training import ChosenTraining
from nenni_core.errors import require


@dataclass(frozen=True, kw_only=True)
class FineTuned(ChosenTraining):
    """A trained network, changed by `wrap` and then trained on for a few epochs, or for none."""

    starts_trained: ClassVar[bool] = True
    choice: ClassVar[str] = "base"

    base: str = "adversarial"
    """The defence that has trained the network, and whose loss fine-tunes it: "clean" or "adversarial"."""
    epochs: int = 0
    """Epochs of fine-tuning, at least 0."""
    learning_rate: float = 0.01
    """The highest learning rate of the fine-tuning, above 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require("epochs", self.epochs, self.epochs >= 0, "at least 0")
        require("learning_rate", self.learning_rate, 0 < self.learning_rate < float("inf"), "above 0")

    @property
    def unread(self) -> frozenset[str]:
        """On clean images nothing is attacked, and in no epochs nothing is trained."""
        return super().unread | frozenset({"learning_rate"} if self.epochs == 0 else ())
