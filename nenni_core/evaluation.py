"""Accuracy of a model on clean images and under attacks, sample by sample.

Nothing here trusts an attack: whether a sample is still classified correctly is decided by a forward pass
of its own, and an accuracy is the mean of a stored mask.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor, nn

from nenni_core.attacks.adapter import AttackCost, check_logits_shape, model_device, run_attack
from nenni_core.attacks.kinds import attack_kind
from nenni_core.attacks.spec import AttackSpec
from nenni_core.attacks.untouched import frozen_for_evaluation, full_precision
from nenni_core.errors import InputError, unknown_choice
from nenni_core.evaluation_files import evaluation_guard, load_part, save_part
from nenni_core.progress import ProgressCallback, silent
from nenni_core.randomness import derive_seed, noise_streams, set_noise
from nenni_core.statistics import wilson_interval

CLEAN = "clean"
WORST_CASE = "worst_case"


class Accuracy(NamedTuple):
    """A share of the images, with the ends of its 95% Wilson interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, eq=False)
class AttackOutcome:
    """What one attack did to all the images, and what it cost.

    Images that the model already gets wrong are not attacked: they count as not robust, and their
    prediction is the clean one. Costs are those of the attack alone, without the forward pass per attacked
    image that judges it.
    """

    spec: AttackSpec
    correct: Bool[Tensor, "images"]
    """Classified correctly before and under the attack."""
    predicted: Int[Tensor, "images"]
    attacked: int
    """How many images were attacked: the initially correct ones."""
    forwards: int
    """Samples through the model while attacking."""
    backwards: int
    """Samples whose input gradient was computed while attacking."""
    zero_gradients: int
    """Of `backwards`, how many gradients were exactly zero; many of them mean that gradients are masked."""
    seconds: float
    examples: Float[Tensor, "examples channels height width"]
    """Adversarial images of the samples in `Examples.index`."""


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

    @property
    def worst_case_correct(self) -> Bool[Tensor, "images"]:
        """Correct on the clean image and under all attacks that were run."""
        masks = [self.clean_correct, *(outcome.correct for outcome in self.attacks.values())]
        return torch.stack(masks).all(dim=0)

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
        """Mean of the mask called `name` (see `correct`), a fraction, with its 95% interval."""
        mask = self.correct(name)
        successes, trials = int(mask.sum()), len(mask)
        return Accuracy(successes / trials, *wilson_interval(successes, trials))

    def summary(self) -> dict[str, Any]:
        """All numbers as plain JSON types; accuracies as fractions, times in seconds."""

        def numbers(name: str) -> dict[str, Any]:
            counts = {"correct": int(self.correct(name).sum()), "images": len(self.labels)}
            return self.accuracy(name)._asdict() | counts

        attacks = {
            name: numbers(name)
            | {
                "spec": asdict(outcome.spec),
                "attacked": outcome.attacked,
                "forwards": outcome.forwards,
                "backwards": outcome.backwards,
                "zero_gradients": outcome.zero_gradients,
                "seconds": outcome.seconds,
            }
            for name, outcome in self.attacks.items()
        }
        return {
            CLEAN: numbers(CLEAN) | {"seconds": self.clean_seconds},
            WORST_CASE: numbers(WORST_CASE),
            "attacks": attacks,
        }

    def records(self) -> dict[str, np.ndarray]:
        """Equally long columns, one row per image: index, label, then `_correct` and `_predicted` of each."""
        columns = {
            "index": torch.arange(len(self.labels)),
            "label": self.labels,
            "clean_correct": self.clean_correct,
            "clean_predicted": self.clean_predicted,
        }
        for name, outcome in self.attacks.items():
            columns[f"{name}_correct"] = outcome.correct
            columns[f"{name}_predicted"] = outcome.predicted
        columns["worst_case_correct"] = self.worst_case_correct
        return {name: column.numpy() for name, column in columns.items()}


@dataclass(frozen=True, kw_only=True)
class _Bench:
    """A model, the images it is judged on and how; what the clean pass and each attack share."""

    model: nn.Module
    images: Tensor
    labels: Tensor
    num_classes: int
    batch_size: int
    seed: int
    device: torch.device

    def batches(self, wanted: Tensor) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
        """(number, indices, pixels, labels) of the `wanted` images, cut at places independent of `wanted`."""
        for number, start in enumerate(range(0, len(self.images), self.batch_size)):
            index = start + wanted[start : start + self.batch_size].nonzero().flatten()
            x = self.images[index].to(self.device).float().div(255)
            yield (
                number,
                index,
                x.contiguous(memory_format=torch.channels_last),
                self.labels[index].to(self.device),
            )

    def predict(self, x: Tensor, name: str, number: int) -> Tensor:
        """Labels for one batch, under a fresh noise draw if the model is random."""
        if noise_streams(self.model):
            set_noise(self.model, "inference", derive_seed(self.seed, name, str(number)))
        with torch.no_grad():
            logits = self.model(x)
        check_logits_shape(logits, len(x), self.num_classes)
        if any(module.training for module in self.model.modules()):
            raise InputError("the model switches itself to training mode in its forward pass")
        broken = int((~logits.isfinite()).any(dim=1).sum())
        if broken:
            raise InputError(f"{name}: the logits of {broken} of {len(x)} samples are NaN or infinite")
        return logits.argmax(dim=1).cpu()

    def clean_predictions(self, on_progress: ProgressCallback) -> Tensor:
        """The label that the model gives to each image."""
        predicted = torch.empty_like(self.labels)
        for number, index, x, _ in self.batches(torch.ones(len(self.images), dtype=torch.bool)):
            predicted[index] = self.predict(x, CLEAN, number)
            on_progress(CLEAN, int(index[-1]) + 1, len(self.images))
        return predicted

    def attack(
        self, spec: AttackSpec, clean_predicted: Tensor, keep: Tensor, on_progress: ProgressCallback
    ) -> AttackOutcome:
        """Attack each initially correct image once and judge the result."""
        started = perf_counter()
        wanted = clean_predicted == self.labels
        predicted, cost = clean_predicted.clone(), AttackCost()
        examples = torch.empty(len(keep), *self.images.shape[1:])
        for number, index, x, y in self.batches(wanted):
            if len(index):
                seed = derive_seed(self.seed, spec.name, str(number))
                x_adv = run_attack(spec, self.model, x, y, seed=seed, num_classes=self.num_classes, cost=cost)
                predicted[index] = self.predict(x_adv, spec.name, number)
                kept, place = torch.nonzero(keep[:, None] == index[None, :], as_tuple=True)
                examples[kept] = x_adv[place.to(self.device)].cpu()
            on_progress(spec.name, min((number + 1) * self.batch_size, len(self.images)), len(self.images))
        return AttackOutcome(
            spec=spec,
            correct=predicted == self.labels,  # False where not attacked: there the clean prediction stands
            predicted=predicted,
            attacked=int(wanted.sum()),
            forwards=cost.forwards,
            backwards=cost.backwards,
            zero_gradients=cost.zero_gradients,
            seconds=perf_counter() - started,
            examples=examples,
        )


def _one_of_each_class_first(candidates: Tensor, labels: Tensor, count: int) -> Tensor:
    """`count` of the `candidates` (indices), taking one of each class before a second of any; sorted."""
    seen: dict[int, int] = {}
    ranked: list[tuple[int, int]] = []
    for index in candidates.tolist():
        label = int(labels[index])
        ranked.append((seen.get(label, 0), index))
        seen[label] = seen.get(label, 0) + 1
    return torch.tensor(sorted(index for _, index in sorted(ranked)[:count]), dtype=torch.int64)


def _check_arguments(
    images: Tensor,
    labels: Tensor,
    attacks: Sequence[AttackSpec],
    num_classes: int,
    batch_size: int,
    keep_examples: int,
) -> None:
    if images.dtype != torch.uint8:
        raise InputError(f"images are {images.dtype}, expected torch.uint8 in [0, 255]")
    if len(images) == 0 or len(images) != len(labels):
        raise InputError(
            f"{len(images)} images and {len(labels)} labels, expected as many of each, at least 1"
        )
    if int(labels.min()) < 0 or int(labels.max()) >= num_classes:
        raise InputError(
            f"labels lie in [{int(labels.min())}, {int(labels.max())}], expected [0, {num_classes - 1}]"
        )
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}, expected at least 1")
    if keep_examples < 0:
        raise InputError(f"keep_examples is {keep_examples}, expected 0 or more")
    names = [spec.name for spec in attacks]
    for spec in attacks:
        attack_kind(spec)
        if spec.name in (CLEAN, WORST_CASE):
            raise InputError(f"an attack cannot be named {spec.name!r}, which is a column of its own")
        if names.count(spec.name) > 1:
            raise InputError(f"two attacks are named {spec.name!r}, expected different names")


def evaluate(
    model: nn.Module,
    images: Num[Tensor, "images channels height width"],
    labels: Int[Tensor, "images"],
    attacks: Sequence[AttackSpec],
    *,
    num_classes: int,
    batch_size: int = 256,
    seed: int = 0,
    on_progress: ProgressCallback = silent,
    keep_examples: int = 8,
    resume_dir: Path | None = None,
) -> Evaluation:
    """Judge `model` on uint8 `images`, clean and under each of `attacks`, in float32 and channels-last.

    Two calls with equal arguments give equal masks to the bit. A random model (`noise_streams`) is judged
    on a fresh draw of the stream "inference" per batch, after an attack that saw one draw of "attack". The
    model may be in any mode and is left as it was. Batches are cut at fixed places of `images`, so that an
    attack's random start of a batch is set by (`seed`, attack name, batch number).

    With `resume_dir`, the clean pass and each finished attack are stored there, and a later call with the
    same model, images, attack and seed takes them from there; anything else is computed anew.

    Raises `InputError` for images that are not uint8, labels outside the classes, unknown or equally named
    attacks, logits of a wrong shape or not finite, and a model that switches itself to training mode;
    `AttackError` if an attack breaks its contract.
    """
    _check_arguments(images, labels, attacks, num_classes, batch_size, keep_examples)
    images, labels = images.cpu(), labels.long().cpu()
    device = model_device(model, images.device)
    bench = _Bench(
        model=model,
        images=images,
        labels=labels,
        num_classes=num_classes,
        batch_size=batch_size,
        seed=seed,
        device=device,
    )
    shared = {"seed": seed, "num_classes": num_classes, "batch_size": batch_size, "examples": keep_examples}
    guard = evaluation_guard(model, images, labels, shared) if resume_dir is not None else ""

    with frozen_for_evaluation(model), full_precision(device):
        stored = load_part(resume_dir, CLEAN, guard)
        if stored is None:
            started = perf_counter()
            predicted = bench.clean_predictions(on_progress)
            stored = {"predicted": predicted}, {"seconds": perf_counter() - started}
            save_part(resume_dir, CLEAN, guard, *stored)
        else:
            on_progress(CLEAN, len(images), len(images))
        clean_predicted, clean_seconds = stored[0]["predicted"], float(stored[1]["seconds"])

        clean_correct = clean_predicted == labels
        keep = _one_of_each_class_first(clean_correct.nonzero().flatten(), labels, keep_examples)
        outcomes: dict[str, AttackOutcome] = {}
        for spec in attacks:
            outcomes[spec.name] = _attack_or_stored(
                bench, spec, clean_predicted, keep, on_progress, resume_dir, guard
            )

    examples = Examples(
        index=keep,
        label=labels[keep],
        clean=images[keep].float().div(255),
        adversarial={name: outcome.examples for name, outcome in outcomes.items()},
        predicted={name: outcome.predicted[keep] for name, outcome in outcomes.items()},
    )
    return Evaluation(
        labels=labels,
        clean_correct=clean_correct,
        clean_predicted=clean_predicted,
        clean_seconds=clean_seconds,
        attacks=outcomes,
        examples=examples,
    )


def _attack_or_stored(
    bench: _Bench,
    spec: AttackSpec,
    clean_predicted: Tensor,
    keep: Tensor,
    on_progress: ProgressCallback,
    resume_dir: Path | None,
    guard: str,
) -> AttackOutcome:
    tensors = ("correct", "predicted", "examples")
    guard = f"{guard} {asdict(spec)}"
    stored = load_part(resume_dir, spec.name, guard)
    if stored is not None:
        on_progress(spec.name, len(bench.images), len(bench.images))
        fields: dict[str, Any] = stored[0] | stored[1]
        return AttackOutcome(spec=spec, **fields)
    outcome = bench.attack(spec, clean_predicted, keep, on_progress)
    numbers = {
        key: getattr(outcome, key)
        for key in ("attacked", "forwards", "backwards", "zero_gradients", "seconds")
    }
    save_part(resume_dir, spec.name, guard, {key: getattr(outcome, key) for key in tensors}, numbers)
    return outcome
