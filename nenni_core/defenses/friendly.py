"""Friendly adversarial training: attacked only until just beyond the decision boundary."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from nenni_core.attacks.pgd import LINF, frozen_parameters, summed_cross_entropy
from nenni_core.defenses.adversarial_training import AdversarialTraining
from nenni_core.defenses.defense import Batch, Labels, StepContext
from nenni_core.errors import InputError, require
from nenni_core.randomness import held_noise

LARGEST_TAU = 10**6
"""No search has more steps."""


@dataclass(frozen=True, kw_only=True)
class FriendlyTraining(AdversarialTraining):
    """Friendly adversarial training, FAT (Zhang et al. 2020, arXiv 2002.11242).

    Adversarial training whose search stops, image by image, `tau` steps after the image was first found
    misclassified. Curriculum: `taus` one after the other. With `taus` at least the number of steps
    and `omega` 0 it is adversarial training to the bit.

    Departures from the authors' code: the search runs in train mode, as that of our adversarial training
    (theirs in eval mode), and therefore on the whole batch, stopped images included; radius, step and
    number of steps are the recipe's; the default curriculum is that of their FAT for TRADES (tau 0, 1, 2, 3
    from epochs 1, 31, 51 and 71 of 85), in shares of the training; their FAT has 0, 1, 2.
    """

    title: ClassVar[str] = "FAT (Zhang et al., 2020)"

    taus: tuple[int, ...] = (0, 1, 2, 3)
    """Steps that an image is attacked further once it is misclassified; one value per part of training."""
    milestones: tuple[float, ...] = (30 / 85, 50 / 85, 70 / 85)
    """Shares of the training after which the next value holds, increasing, one fewer than `taus`."""
    omega: float = 0.001
    """Standard deviation of noise that is added at each step, in [0, 1] pixel units."""

    def __post_init__(self) -> None:
        require(
            "taus",
            self.taus,
            bool(self.taus) and 0 <= min(self.taus) <= max(self.taus) <= LARGEST_TAU,
            f"of numbers in [0, {LARGEST_TAU}]",
        )
        require("omega", self.omega, 0 <= self.omega <= 1, "in [0, 1] pixel units")
        require(
            "milestones",
            self.milestones,
            list(self.milestones) == sorted(self.milestones) and all(0 < m < 1 for m in self.milestones),
            "of increasing shares of the training, in (0, 1)",
        )
        if len(self.milestones) != len(self.taus) - 1:
            raise InputError(
                f"taus has {len(self.taus)} values and milestones {len(self.milestones)}; "
                "expected one milestone fewer than values"
            )

    def tau(self, context: StepContext) -> int:
        """The present value; it changes between epochs only."""
        share = (context.epoch - 1) / context.epochs
        return self.taus[sum(share >= milestone for milestone in self.milestones)]

    def search(self, model: nn.Module, x: Batch, y: Labels, context: StepContext) -> Batch:
        """PGD from a random start; an image stays where it is once its `tau` steps are used up."""
        left = torch.full_like(y, self.tau(context))
        running = torch.ones_like(y, dtype=torch.bool)
        delta = LINF.random_point(x, context.eps, context.generator)
        x_adv = (x + delta).clamp_(0, 1)
        with held_noise(model), frozen_parameters(model), torch.enable_grad():
            for _ in range(context.steps):
                x_adv.requires_grad_(True)
                logits = model(x_adv).float()
                (gradient,) = torch.autograd.grad(summed_cross_entropy(logits, y), x_adv)
                x_adv = x_adv.detach()
                wrong = logits.detach().argmax(1) != y
                running = running & ~(wrong & (left == 0))
                left = left - (wrong & (left > 0)).to(left.dtype)
                step = x_adv + context.step_size * LINF.direction(gradient)
                if self.omega:
                    noise = torch.randn(
                        x.shape,
                        generator=context.generator,
                        device=context.generator.device,
                        dtype=x.dtype,
                    )
                    step = step + self.omega * noise.to(x.device)
                moved = (x + LINF.project(step - x, context.eps)).clamp_(0, 1)
                x_adv = torch.where(running.view(-1, 1, 1, 1), moved, x_adv)
        return x_adv
