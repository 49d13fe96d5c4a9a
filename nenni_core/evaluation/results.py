"""What an evaluation found: per-sample results, and the numbers that follow from them."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nenni_core.attacks.kinds import attack_kind, counts_in_worst_case, settings_of
from nenni_core.attacks.spec import AttackSpec
from nenni_core.errors import unknown_choice
from nenni_core.statistics import median_interval, wilson_interval

CLEAN = "clean"
WORST_CASE = "worst_case"


class Accuracy(NamedTuple):
    """A share of the images, with the ends of its 95% Wilson interval."""

    value: float
    low: float
    high: float


class Median(NamedTuple):
    """A median with the ends of its 95% interval (`median_interval`); infinite values are possible."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, eq=False)
class AttackOutcome:
    """What one attack did to all the images, and what it cost.

    Images that the model already gets wrong are not attacked: they count as not robust, and their
    prediction is the clean one. Nor are those that an attack of `spec.survivors_of` has fooled, whose
    prediction is that attack's. Costs are those of the attack alone, without the passes that judge it.
    """

    spec: AttackSpec
    correct: Bool[Tensor, "images"]
    """Classified correctly before and under the attack; of a random model on one fresh draw."""
    predicted: Int[Tensor, "images"]
    probability: Float[Tensor, "images"]
    """Share of the fresh noise draws on which it is; 0 or 1 for a deterministic model."""
    distance: Float[Tensor, "images"]
    """l2 norm of the perturbation, in [0, 1] pixel units; 0 where not attacked."""
    attacked: int
    """How many images were attacked."""
    forwards: int
    """Samples through the model while attacking."""
    backwards: int
    """Samples whose input gradient was computed while attacking."""
    zero_gradients: int
    """Of `backwards`, how many gradients were exactly zero; many of them mean that gradients are masked."""
    seconds: float
    examples: Float[Tensor, "examples channels height width"]
    """Adversarial images of the samples in `Examples.index`."""

    @property
    def median_distance(self) -> Median | None:
        """Median l2 norm of the perturbations that it takes to fool the model, over the images attacked.

        An image on which the attack fails counts as infinitely far. None for attacks that stay in a ball
        instead of looking for the smallest perturbation, and where nothing was attacked.
        """
        if attack_kind(self.spec).norm is not None or self.attacked == 0:
            return None
        fooling = self.distance[(self.distance > 0) & ~self.correct]
        failed = self.attacked - len(fooling)
        return Median(*median_interval([*fooling.tolist(), *[inf] * failed]))


@dataclass(frozen=True, kw_only=True, eq=False)
class Examples:
    """A few initially correct images for a picture, one of each class before a second of any."""

    index: Int[Tensor, "examples"]
    label: Int[Tensor, "examples"]
    clean: Float[Tensor, "examples channels height width"]
    adversarial: dict[str, Tensor]
    """By attack: float images of the shape of `clean`."""
    predicted: dict[str, Tensor]
    """By attack: the label that the model gives to the adversarial image."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """Everything that `evaluate` found; masks and predictions are in the order of the images given."""

    labels: Int[Tensor, "images"]
    clean_correct: Bool[Tensor, "images"]
    clean_predicted: Int[Tensor, "images"]
    clean_seconds: float
    attacks: dict[str, AttackOutcome]
    examples: Examples
    judged_again: Float[Tensor, "images"] | None = None
    """Random models: share of further noise draws on which the image that the attacks together found worst is
    classified correctly."""

    @property
    def worst_case_correct(self) -> Bool[Tensor, "images"]:
        """Correct on the clean image and under all attacks that count (`counts_in_worst_case`).

        For a random model: correct on most of the further draws of the worst image.
        """
        if self.judged_again is not None:
            return self.judged_again > 0.5
        counting = (outcome for outcome in self.attacks.values() if counts_in_worst_case(outcome.spec))
        masks = [self.clean_correct, *(outcome.correct for outcome in counting)]
        return torch.stack(masks).all(dim=0)

    def probability(self, name: str) -> Float[Tensor, "images"]:
        """The chance, by sample, of being right in the column called `name` (see `correct`).

        For a deterministic model this is the mask. For a random one it is a share of fresh noise draws: of
        the worst case those after the choice of the worst image, so that the choice does not bias them.
        """
        if name == WORST_CASE and self.judged_again is not None:
            return self.judged_again
        if name in self.attacks:
            return self.attacks[name].probability
        return self.correct(name).float()

    def correct(self, name: str) -> Bool[Tensor, "images"]:
        """The mask called `name`: "clean", "worst_case" or an attack; `InputError` for anything else."""
        if name == CLEAN:
            return self.clean_correct
        if name == WORST_CASE:
            return self.worst_case_correct
        if name not in self.attacks:
            raise unknown_choice("attack", name, [CLEAN, *self.attacks, WORST_CASE])
        return self.attacks[name].correct

    def accuracy(self, name: str) -> Accuracy:
        """Mean of `probability(name)`, a fraction, with its 95% interval over the choice of images."""
        chances = self.probability(name)
        successes, trials = float(chances.sum(dtype=torch.float64)), len(chances)
        return Accuracy(successes / trials, *wilson_interval(successes, trials))

    def worst_of(self, names: Iterable[str]) -> Accuracy:
        """The accuracy under all of the attacks `names` together; of clean images if there are none.

        For a random model it is that of the strongest one: an image that each of several attacks has fooled
        on some noise draws has not been fooled by any of them on all.
        """
        names = [CLEAN, *names]
        if self.judged_again is not None:
            return min(self.accuracy(name) for name in names)
        right = torch.stack([self.correct(name) for name in names]).all(dim=0)
        successes, trials = int(right.sum()), len(right)
        return Accuracy(successes / trials, *wilson_interval(successes, trials))

    def summary(self) -> dict[str, Any]:
        """All numbers as plain JSON types; accuracies as fractions, times in seconds."""

        def numbers(name: str) -> dict[str, Any]:
            count = int(self.correct(name).sum())
            # the accuracy of a random model is a mean over draws, and the count of no one draw
            correct = None if self.judged_again is not None and name != CLEAN else count
            return self.accuracy(name)._asdict() | {"correct": correct, "images": len(self.labels)}

        attacks = {
            name: numbers(name)
            | {
                "spec": settings_of(outcome.spec),
                "attacked": outcome.attacked,
                "forwards": outcome.forwards,
                "backwards": outcome.backwards,
                "zero_gradients": outcome.zero_gradients,
                "seconds": outcome.seconds,
            }
            | _distance(outcome.median_distance)
            for name, outcome in self.attacks.items()
        }
        return {
            CLEAN: numbers(CLEAN) | {"seconds": self.clean_seconds},
            WORST_CASE: numbers(WORST_CASE),
            "attacks": attacks,
        }

    def records(self) -> dict[str, np.ndarray]:
        """Equally long columns, one row per image: index, label, then the results of each attack."""
        columns = {
            "index": torch.arange(len(self.labels)),
            "label": self.labels,
            "clean_correct": self.clean_correct,
            "clean_predicted": self.clean_predicted,
        }
        for name, outcome in self.attacks.items():
            columns[f"{name}_correct"] = outcome.correct
            columns[f"{name}_predicted"] = outcome.predicted
            columns[f"{name}_probability"] = outcome.probability
            columns[f"{name}_distance"] = outcome.distance
        columns["worst_case_correct"] = self.worst_case_correct
        columns["worst_case_probability"] = self.probability(WORST_CASE)
        return {name: column.numpy() for name, column in columns.items()}


def _distance(median: Median | None) -> dict[str, dict[str, float | None]]:
    """A median distance as plain JSON types, null for an infinite end; nothing where there is none."""
    if median is None:
        return {}
    ends = median._asdict()
    return {"median_distance": {name: ends[name] if isfinite(ends[name]) else None for name in ends}}
