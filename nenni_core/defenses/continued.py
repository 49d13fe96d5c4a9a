"""Train a network on by another loss than the defence that it was built by."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from torch import nn

from nenni_core.defenses.defense import Batch, Defense, Labels, LossAndLogits, StepContext


@dataclass(frozen=True, kw_only=True)
class Continued(Defense):
    """The loss of `objective` for a network built by `built_by`, whose rules for its parameters still hold.

    For fine-tuning with injected noise: of the defence remain the network, who has which weight decay, and
    what it maintains (weights that stay zero, noise that stays above its minimum); not its loss.
    """

    title: ClassVar[str] = "Fine-tuning"

    objective: Defense
    """What is searched and minimised, such as adversarial or clean training."""
    built_by: Defense
    """The defence whose `wrap` has made the network."""

    @property
    def select_by(self) -> Literal["robust", "clean"]:
        """As the objective."""
        return self.objective.select_by

    def search(self, model: nn.Module, x: Batch, y: Labels, context: StepContext) -> Batch:
        """The objective's inner maximisation."""
        return self.objective.search(model, x, y, context)

    def loss(
        self, model: nn.Module, x: Batch, x_adv: Batch, y: Labels, context: StepContext
    ) -> LossAndLogits:
        """The objective's loss."""
        return self.objective.loss(model, x, x_adv, y, context)

    def maintain(self, model: nn.Module, context: StepContext) -> None:
        """What the defence maintains at the end of its own training."""
        self.built_by.maintain(model, replace(context, position=float(context.epochs)))

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """As in the defence's own training."""
        return self.built_by.parameter_groups(model)
