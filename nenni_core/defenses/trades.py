"""TRADES: accuracy on clean images plus how little an attack can change the prediction."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from nenni_core.attacks.pgd import Linf, pgd
from nenni_core.defenses.defense import Batch, Defense, Labels, LossAndLogits, StepContext
from nenni_core.errors import require
from nenni_core.modes import eval_mode
from nenni_core.randomness import held_noise

START_SIGMA = 0.001
"""Standard deviation of the random start, in [0, 1] pixel units."""


class NormalStart(Linf):
    """The maximum norm, started a little beside the image: its gradient there is zero."""

    def random_point(self, x: Batch, eps: float, generator: torch.Generator) -> Batch:
        """Normal with standard deviation `START_SIGMA`; drawn on the generator's device."""
        noise = torch.randn(x.shape, generator=generator, device=generator.device, dtype=x.dtype)
        return noise.to(x.device).mul_(START_SIGMA)


@dataclass(frozen=True, kw_only=True)
class Trades(Defense):
    """TRADES (Zhang et al. 2019, arXiv 1901.08573).

    Minimises cross-entropy(f(x), y) + beta * KL(f(x) || f(x_adv)), where x_adv maximises the divergence,
    searched in eval mode. At `beta` 0 nothing is searched, and it is clean training to the bit.

    Departures from the authors' code: radius, step and number of steps are the recipe's; the start is
    clipped to [0, 1]; f(x) is computed once for both terms, so that batch normalisation sees the clean
    images once and the attacked ones once; the prediction that the search moves away from is computed once
    (theirs is repeated at each step and is the same).
    """

    title: ClassVar[str] = "TRADES (Zhang et al., 2019)"

    beta: float = 6.0
    """Weight of the divergence (1 / lambda of the paper), at least 0."""

    def __post_init__(self) -> None:
        require("beta", self.beta, 0 <= self.beta < float("inf"), "at least 0")

    @property
    def select_by(self) -> Literal["robust", "clean"]:
        """The robust accuracy, unless nothing but the clean one is trained."""
        return "robust" if self.beta > 0 else "clean"

    @property
    def unread(self) -> frozenset[str]:
        """At `beta` 0 nothing is attacked."""
        return frozenset({"steps"} if self.beta == 0 else ())

    def search(self, model: nn.Module, x: Batch, y: Labels, context: StepContext) -> Batch:
        """Signed gradient ascent on KL(f(x) || f(x_adv)), from a start very near to x."""
        if self.beta == 0:
            return x
        with eval_mode(model), held_noise(model):
            with torch.no_grad():
                clean = F.softmax(model(x).float(), dim=1)

            def divergence(
                logits: Float[Tensor, "batch classes"], _: Int[Tensor, "batch"]
            ) -> Float[Tensor, ""]:
                return F.kl_div(F.log_softmax(logits, dim=1), clean, reduction="sum")

            return pgd(
                model,
                x,
                y,
                eps=context.eps,
                step_size=context.step_size,
                steps=context.steps,
                generator=context.generator,
                norm=NormalStart(),
                loss=divergence,
            )

    def loss(
        self, model: nn.Module, x: Batch, x_adv: Batch, y: Labels, context: StepContext
    ) -> LossAndLogits:
        """Both terms, means over the batch; gradients flow through both predictions. Logits at x_adv."""
        clean = model(x).float()
        classified = F.cross_entropy(clean, y)
        if self.beta == 0:
            return classified, clean
        attacked = model(x_adv).float()
        divergence = F.kl_div(F.log_softmax(attacked, dim=1), F.softmax(clean, dim=1), reduction="batchmean")
        return classified + self.beta * divergence, attacked
