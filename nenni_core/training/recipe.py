"""What defines a training run, and the learning rate that follows from it."""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass

import torch

from nenni_core.errors import require, unknown_choice


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Hyperparameters of one training run; everything here changes the result.

    The defaults are those of Rice et al. 2020, "Overfitting in adversarially robust deep learning",
    section 3. Raises `InputError` for a value out of its range.
    """

    epochs: int
    """Passes over the training images, at least 1 (the paper: 200)."""
    batch_size: int = 128
    """Images per step."""
    learning_rate: float = 0.1
    """The highest learning rate of the schedule."""
    momentum: float = 0.9
    """Momentum of SGD, in [0, 1)."""
    weight_decay: float = 5e-4
    """L2 penalty, on all parameters as in the paper's code."""
    schedule: str = "step"
    """Key of `SCHEDULES`: "step", "one_cycle" or "constant"."""
    milestones: tuple[int, ...] = (100, 150)
    """Epochs finished when the "step" schedule multiplies the learning rate by `decay`, increasing."""
    decay: float = 0.1
    """Factor of the "step" schedule."""
    eps: float = 8 / 255
    """Radius of the attack (maximum norm) in [0, 1] pixel units."""
    step_size: float = 2 / 255
    """Step of the attack in [0, 1] pixel units."""
    steps: int = 10
    """Steps of the attack in training."""
    crop_padding: int = 4
    """Pixels that the random crop adds on each side, by reflection; 0 turns the crop off."""
    flip: bool = True
    """Whether images are mirrored left to right with probability 1/2."""
    precision: str = "float32"
    """Key of `PRECISIONS`: what convolutions compute in. Weights and losses are float32 always."""
    validation_steps: int = 10
    """Steps of the attack on the validation images."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "validation_steps"):
            require(name, getattr(self, name), getattr(self, name) >= 1, "at least 1")
        for name in ("steps", "crop_padding", "weight_decay"):
            require(name, getattr(self, name), getattr(self, name) >= 0, "at least 0")
        require("learning_rate", self.learning_rate, 0 < self.learning_rate < float("inf"), "above 0")
        require("momentum", self.momentum, 0 <= self.momentum < 1, "in [0, 1)")
        require("decay", self.decay, 0 < self.decay <= 1, "in (0, 1]")
        require("eps", self.eps, 0 <= self.eps <= 1, "in [0, 1] pixel units, such as 8 / 255")
        require(
            "step_size", self.step_size, 0 < self.step_size <= 1, "in (0, 1] pixel units, such as 2 / 255"
        )
        require("milestones", self.milestones, list(self.milestones) == sorted(self.milestones), "increasing")
        if self.schedule not in SCHEDULES:
            raise unknown_choice("schedule", self.schedule, list(SCHEDULES))
        if self.precision not in PRECISIONS:
            raise unknown_choice("precision", self.precision, list(PRECISIONS))


def _step(recipe: Recipe, position: float) -> float:
    """The full rate, multiplied by `decay` at each milestone."""
    return recipe.decay ** bisect_right(recipe.milestones, position)


def _one_cycle(recipe: Recipe, position: float) -> float:
    """Linear from 0 up to the full rate after 2/5 of the epochs, then linear down to 0.

    Smith 2018, "A disciplined approach to neural network hyper-parameters", in the form that the code of
    Rice et al. uses.
    """
    peak = 0.4 * recipe.epochs
    return position / peak if position < peak else (recipe.epochs - position) / (recipe.epochs - peak)


def _constant(recipe: Recipe, position: float) -> float:
    return 1.0


SCHEDULES: dict[str, Callable[[Recipe, float], float]] = {
    "step": _step,
    "one_cycle": _one_cycle,
    "constant": _constant,
}
"""The share of the full learning rate at a position, which is counted in epochs from 0."""

PRECISIONS: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def learning_rate(recipe: Recipe, epoch: int, batch: int, batches: int) -> float:
    """The learning rate of batch `batch` of `batches` in epoch `epoch`, both counted from 0.

    A function of the position alone, so that a restart needs no scheduler state. The position is the
    middle of the step, so that "one_cycle" wastes neither its first nor its last one on a rate of 0.
    """
    position = epoch + (batch + 0.5) / batches
    return recipe.learning_rate * SCHEDULES[recipe.schedule](recipe, position)
