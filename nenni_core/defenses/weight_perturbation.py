"""Adversarial weight perturbation: the worst weights nearby are trained, not only the worst images."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from nenni_core.defenses.adversarial_training import AdversarialTraining
from nenni_core.defenses.defense import Batch, Defense, Labels, LossAndLogits, StepContext
from nenni_core.defenses.trades import Trades
from nenni_core.errors import require

TINY = 1e-20
"""Keeps the direction of a zero gradient finite."""


@dataclass(frozen=True, kw_only=True)
class WeightPerturbation(Defense):
    """Adversarial weight perturbation, AWP (Wu et al. 2020, arXiv 2004.05884), around another loss.

    Each weight tensor w of two or more dimensions is moved by v = gamma ||w|| g / ||g||, where g is the
    gradient of the loss at the attacked images; the optimiser steps with the gradient found there, and v
    is taken back afterwards. Momentum and weight decay therefore see the moved weights, as in the
    authors' code. At `gamma` 0 it is the other loss to the bit.

    Departures: their copy of the model ("proxy") is this model itself, whose batch norm statistics are put
    back after the gradient g; their code has gamma 0.01 for adversarial training and 0.005 for TRADES, the
    comparison of arXiv 2402.04325 has 0.005 for both; the warm-up of TRADES, nine of 200 epochs, is a share
    of the training.
    """

    gamma: float = 5e-3
    """Size of the perturbation relative to the weights, at least 0."""
    warmup: float = 0.0
    """Share of the epochs that are trained without it, in [0, 1]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require("gamma", self.gamma, 0 <= self.gamma < float("inf"), "at least 0")
        require("warmup", self.warmup, 0 <= self.warmup <= 1, "in [0, 1]")

    def step(self, model: nn.Module, x: Batch, y: Labels, context: StepContext) -> LossAndLogits:
        """The loss at the perturbed weights; `context.after_step` takes the perturbation back."""
        x_adv = self.search(model, x, y, context)
        if self.gamma > 0 and context.epoch - 1 >= self.warmup * context.epochs:
            weights: list[Tensor] = [p for p in model.parameters() if p.requires_grad and p.dim() > 1]
            with kept_buffers(model):
                loss, _ = self.loss(model, x, x_adv, y, context)
                gradients = torch.autograd.grad(loss, weights, materialize_grads=True)
            moves = [
                self.gamma * weight.detach().norm() / (gradient.norm() + TINY) * gradient
                for weight, gradient in zip(weights, gradients, strict=True)
            ]
            with torch.no_grad():
                torch._foreach_add_(weights, moves)
            context.after_step.callback(_take_back, weights, moves)
        return self.loss(model, x, x_adv, y, context)


@torch.no_grad()
def _take_back(weights: list[Tensor], moves: list[Tensor]) -> None:
    torch._foreach_sub_(weights, moves)


@contextmanager
def kept_buffers(model: nn.Module) -> Iterator[None]:
    """Afterwards the buffers of `model` (statistics of batch normalisation) are what they were before."""
    buffers = list(model.buffers())
    before = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)


@dataclass(frozen=True, kw_only=True)
class AdversarialWeightPerturbation(WeightPerturbation, AdversarialTraining):
    """AWP on adversarial training; see `WeightPerturbation`."""

    title: ClassVar[str] = "AWP (Wu et al., 2020)"


@dataclass(frozen=True, kw_only=True)
class TradesWeightPerturbation(WeightPerturbation, Trades):
    """AWP on TRADES; see `WeightPerturbation` and `Trades`."""

    title: ClassVar[str] = "TRADES-AWP (Wu et al., 2020)"

    warmup: float = 9 / 200
    """Share of the epochs that are trained without it, in [0, 1]."""
