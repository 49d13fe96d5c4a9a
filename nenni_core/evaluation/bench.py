"""A model on the bench: batches, judgement on fresh noise draws, one attack on all images that need it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from nenni_core.attacks.adapter import AttackCost, check_logits_shape, run_attack
from nenni_core.attacks.kinds import attack_kind, counts_in_worst_case
from nenni_core.attacks.spec import AttackSpec
from nenni_core.errors import InputError
from nenni_core.evaluation.files import load_part, save_part
from nenni_core.evaluation.results import CLEAN, WORST_CASE, AttackOutcome
from nenni_core.progress import ProgressCallback
from nenni_core.randomness import derive_seed, set_noise

COUNTS = ("forwards", "backwards", "zero_gradients")


class Worst:
    """Of a random model: the image that all attacks so far together found worst, by sample."""

    def __init__(self, images: Tensor, clean_correct: Tensor) -> None:
        self.adversarial = images.float().div(255)
        self.probability = clean_correct.float()

    def update(self, index: Tensor, x_adv: Tensor, probability: Tensor) -> None:
        """Take the images at `index` where they are right on fewer draws than the worst ones so far."""
        worse = probability < self.probability[index]
        self.adversarial[index[worse]] = x_adv[worse]
        self.probability[index[worse]] = probability[worse]


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A model, the images it is judged on and how; what the clean pass and each attack share."""

    model: nn.Module
    surrogate: nn.Module | None
    images: Tensor
    labels: Tensor
    num_classes: int
    batch_size: int
    seed: int
    device: torch.device
    random: bool
    draws: int
    """Fresh noise draws on which a result is judged; 1 for a deterministic model."""
    folder: Path | None
    guard: str

    def pixels(self, index: Tensor) -> Tensor:
        """The images at `index` as floats in [0, 1] on the model's device, channels-last."""
        x = self.images[index].to(self.device).float().div(255)
        return x.contiguous(memory_format=torch.channels_last)

    def predict(self, x: Tensor, name: str, number: int, draw: int = 0) -> Tensor:
        """Labels for one batch, under a fresh noise draw if the model is random."""
        if self.random:
            names = (name, str(number)) if draw == 0 else (name, str(number), str(draw))
            set_noise(self.model, "inference", derive_seed(self.seed, *names))
        with torch.no_grad():
            logits = self.model(x)
        check_logits_shape(logits, len(x), self.num_classes)
        if any(module.training for module in self.model.modules()):
            raise InputError("the model switches itself to training mode in its forward pass")
        broken = int((~logits.isfinite()).any(dim=1).sum())
        if broken:
            raise InputError(f"{name}: the logits of {broken} of {len(x)} samples are NaN or infinite")
        return logits.argmax(dim=1).cpu()

    def judge(self, x: Tensor, name: str, number: int) -> Tensor:
        """Labels for one batch on each of the fresh draws: (draws, batch)."""
        return torch.stack([self.predict(x, name, number, draw) for draw in range(self.draws)])

    def clean_predictions(self, on_progress: ProgressCallback) -> Tensor:
        """The label that the model gives to each image."""
        predicted = torch.empty_like(self.labels)
        for number, index in enumerate(torch.arange(len(self.images)).split(self.batch_size)):
            predicted[index] = self.predict(self.pixels(index), CLEAN, number)
            on_progress(CLEAN, int(index[-1]) + 1, len(self.images))
        return predicted

    def attack(
        self,
        spec: AttackSpec,
        clean_predicted: Tensor,
        before: Mapping[str, AttackOutcome],
        keep: Tensor,
        worst: Worst | None,
        on_progress: ProgressCallback,
    ) -> AttackOutcome:
        """Attack each image that `spec` is to be run on once, and judge the result."""
        predicted = clean_predicted.clone()
        if not self.random:
            for name in spec.survivors_of:
                predicted = torch.where(predicted == self.labels, before[name].predicted, predicted)
        wanted = (predicted == self.labels).nonzero().flatten()
        probability, distance = torch.zeros(len(self.labels)), torch.zeros(len(self.labels))
        examples = torch.empty(len(keep), *self.images.shape[1:])
        skipped = ~torch.isin(keep, wanted)
        examples[skipped] = self.images[keep[skipped]].float().div(255)
        counts, seconds = dict.fromkeys(COUNTS, 0), 0.0
        for number, index in enumerate(wanted.split(self.batch_size)):
            if len(index) == 0:
                break
            tensors, numbers = self._batch(spec, number, index, keep)
            on_draws = tensors["predicted"]
            predicted[index] = on_draws[0]
            probability[index] = (on_draws == self.labels[index]).float().mean(dim=0)
            distance[index] = tensors["distance"]
            kept, place = torch.nonzero(keep[:, None] == index[None, :], as_tuple=True)
            examples[kept] = tensors["adversarial"][place] if worst is not None else tensors["adversarial"]
            if worst is not None and counts_in_worst_case(spec):
                worst.update(index, tensors["adversarial"], probability[index])
            counts = {name: counts[name] + numbers[name] for name in COUNTS}
            seconds += numbers["seconds"]
            on_progress(spec.name, min((number + 1) * self.batch_size, len(wanted)), len(wanted))
        return AttackOutcome(
            spec=spec,
            correct=predicted == self.labels,  # False where not attacked: there an earlier prediction stands
            predicted=predicted,
            probability=probability,
            distance=distance,
            attacked=len(wanted),
            seconds=seconds,
            examples=examples,
            **counts,
        )

    def _batch(
        self, spec: AttackSpec, number: int, index: Tensor, keep: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """One attacked batch, from the folder of finished ones if it is there.

        Kept are the predictions on every draw and the distances; of the images those for the picture, and for
        a random model, whose worst ones are judged again, all.
        """
        name = f"{spec.name}-{number:05d}"
        guard = f"{self.guard} {asdict(spec)} {sha256(index.numpy().tobytes()).hexdigest()} {self.draws}"
        stored = load_part(self.folder, name, guard)
        if stored is not None:
            return stored
        started = perf_counter()
        x, cost = self.pixels(index), AttackCost()
        x_adv = run_attack(
            spec,
            self.model,
            x,
            self.labels[index].to(self.device),
            seed=derive_seed(self.seed, spec.name, str(number)),
            num_classes=self.num_classes,
            cost=cost,
            surrogate=self.surrogate if attack_kind(spec).needs_surrogate else None,
        )
        seconds = perf_counter() - started
        tensors = {
            "predicted": self.judge(x_adv, spec.name, number),
            "distance": (x_adv - x).flatten(1).norm(dim=1).cpu(),
            "adversarial": (x_adv if self.draws > 1 else x_adv[torch.isin(index, keep)]).cpu(),
        }
        numbers = {name: getattr(cost, name) for name in COUNTS} | {"seconds": seconds}
        save_part(self.folder, name, guard, tensors, numbers)
        return tensors, numbers

    def judge_worst(self, worst: Worst, clean_correct: Tensor, on_progress: ProgressCallback) -> Tensor:
        """The share of further draws on which each sample's worst image is classified correctly."""
        probability = torch.zeros(len(self.labels))
        chunks = clean_correct.nonzero().flatten().split(self.batch_size)
        for number, index in enumerate(chunk for chunk in chunks if len(chunk)):
            x = worst.adversarial[index].to(self.device).contiguous(memory_format=torch.channels_last)
            right = self.judge(x, WORST_CASE, number) == self.labels[index]
            probability[index] = right.float().mean(dim=0)
            on_progress(WORST_CASE, number + 1, len(chunks))
        return probability
