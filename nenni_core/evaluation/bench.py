"""A model on the bench: batches, judgement on fresh noise draws, one attack on all images that need it."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
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
from nenni_core.attacks.untouched import seeded_global_generators
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


class Tally:
    """What one attack has done so far, by sample: of several parts, the last one that attacked it."""

    def __init__(
        self, pixels: Callable[[Tensor], Tensor], clean_predicted: Tensor, labels: Tensor, keep: Tensor
    ) -> None:
        self.labels, self.keep = labels, keep
        self.predicted = clean_predicted.clone()
        self.probability, self.distance = torch.zeros(len(labels)), torch.zeros(len(labels))
        self.examples = pixels(keep).cpu()
        self.counts, self.seconds = dict.fromkeys(COUNTS, 0), 0.0

    def standing(self) -> Tensor:
        """Indices of the samples that are still classified correctly."""
        return (self.predicted == self.labels).nonzero().flatten()

    def take(self, index: Tensor, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Add one attacked batch."""
        on_draws = tensors["predicted"]
        self.predicted[index] = on_draws[0]
        self.probability[index] = (on_draws == self.labels[index]).float().mean(dim=0)
        self.distance[index] = tensors["distance"]
        kept, place = torch.nonzero(self.keep[:, None] == index[None, :], as_tuple=True)
        images = tensors["adversarial"]  # of a random model all of the batch, else those to be kept
        self.examples[kept] = images[place] if len(images) == len(index) else images
        self.counts = {name: self.counts[name] + numbers[name] for name in COUNTS}
        self.seconds += numbers["seconds"]


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
    layout: torch.memory_format
    """In which images are shown to the model."""
    random: bool
    draws: int
    """Fresh noise draws on which a result is judged; 1 for a deterministic model."""
    folder: Path | None
    guard: str

    def pixels(self, index: Tensor) -> Tensor:
        """The images at `index` as floats in [0, 1] on the model's device."""
        x = self.images[index].to(self.device).float().div(255)
        return x.contiguous(memory_format=self.layout)

    def predict(self, x: Tensor, *names: str) -> Tensor:
        """Labels for one batch; if the model is random, under the fresh noise draw of these `names`."""
        with ExitStack() as around:
            around.enter_context(torch.no_grad())
            if self.random:
                seed = derive_seed(self.seed, "inference", *names)  # not that of the attack
                set_noise(self.model, "inference", seed)
                around.enter_context(seeded_global_generators(seed, self.device))
            logits = self.model(x)
        check_logits_shape(logits, len(x), self.num_classes)
        if any(module.training for module in self.model.modules()):
            raise InputError("the model switches itself to training mode in its forward pass")
        broken = int((~logits.isfinite()).any(dim=1).sum())
        if broken:
            raise InputError(f"{names[0]}: the logits of {broken} of {len(x)} samples are NaN or infinite")
        return logits.argmax(dim=1).cpu()

    def judge(self, x: Tensor, *names: str) -> Tensor:
        """Labels for one batch on each of the fresh draws: (draws, batch)."""
        others = [self.predict(x, *names, str(draw)) for draw in range(1, self.draws)]
        return torch.stack([self.predict(x, *names), *others])

    def clean_predictions(self, on_progress: ProgressCallback) -> Tensor:
        """The label that the model gives to each image."""
        predicted = torch.empty_like(self.labels)
        for number, index in enumerate(torch.arange(len(self.images)).split(self.batch_size)):
            predicted[index] = self.predict(self.pixels(index), CLEAN, str(number))
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
        tally = Tally(self.pixels, clean_predicted, self.labels, keep)
        if not self.random:
            for name in spec.survivors_of:
                fooled = before[name].predicted
                tally.predicted = torch.where(tally.predicted == self.labels, fooled, tally.predicted)
        wanted = tally.standing()
        attacked = len(wanted)
        # The parts of an attack are run one after the other on all images, not batch by batch: what a part
        # has left standing of several batches fills the batches of the next.
        parts = (() if self.random else attack_kind(spec).parts(spec, self.num_classes)) or (spec,)
        total = len(parts) * attacked
        for place, part in enumerate(parts):
            done = place * attacked + attacked - len(wanted)
            for number, index in enumerate(wanted.split(self.batch_size) if len(wanted) else ()):
                names = (spec.name, *([str(place)] if len(parts) > 1 else []), str(number))
                tensors, numbers = self._batch(part, names, index, keep)
                tally.take(index, tensors, numbers)
                if worst is not None and counts_in_worst_case(spec):
                    worst.update(index, tensors["adversarial"], tally.probability[index])
                on_progress(spec.name, min(done := done + len(index), total), total)
            wanted = tally.standing()
        if attacked and done < total:  # nothing was left for the last parts
            on_progress(spec.name, total, total)
        return AttackOutcome(
            spec=spec,
            correct=tally.predicted == self.labels,  # False where not attacked: an earlier prediction stands
            predicted=tally.predicted,
            probability=tally.probability,
            distance=tally.distance,
            attacked=attacked,
            seconds=tally.seconds,
            examples=tally.examples,
            **tally.counts,
        )

    def _batch(
        self, spec: AttackSpec, names: tuple[str, ...], index: Tensor, keep: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """One attacked batch, from the folder of finished ones if it is there; `names` say which it is.

        Kept are the predictions on every draw and the distances; of the images those for the picture, and for
        a random model, whose worst ones are judged again, all.
        """
        guard = f"{self.guard} {asdict(spec)} {sha256(index.numpy().tobytes()).hexdigest()} {self.draws}"
        label = "-".join([spec.name, *(name.zfill(5) for name in names[1:])])
        stored = load_part(self.folder, label, guard)
        if stored is not None:
            return stored
        started = perf_counter()
        x, cost = self.pixels(index), AttackCost()
        x_adv = run_attack(
            spec,
            self.model,
            x,
            self.labels[index].to(self.device),
            seed=derive_seed(self.seed, *names),
            num_classes=self.num_classes,
            cost=cost,
            random=self.random,
            surrogate=self.surrogate if attack_kind(spec).needs_surrogate else None,
        )
        seconds = perf_counter() - started
        tensors = {
            "predicted": self.judge(x_adv, *names),
            "distance": (x_adv - x).flatten(1).norm(dim=1).cpu(),
            "adversarial": (x_adv if self.draws > 1 else x_adv[torch.isin(index, keep)]).cpu(),
        }
        numbers = {name: getattr(cost, name) for name in COUNTS} | {"seconds": seconds}
        save_part(self.folder, label, guard, tensors, numbers)
        return tensors, numbers

    def judge_worst(self, worst: Worst, clean_correct: Tensor, on_progress: ProgressCallback) -> Tensor:
        """The share of further draws on which each sample's worst image is classified correctly."""
        probability = torch.zeros(len(self.labels))
        chunks = clean_correct.nonzero().flatten().split(self.batch_size)
        for number, index in enumerate(chunk for chunk in chunks if len(chunk)):
            x = worst.adversarial[index].to(self.device).contiguous(memory_format=self.layout)
            right = self.judge(x, WORST_CASE, str(number)) == self.labels[index]
            probability[index] = right.float().mean(dim=0)
            on_progress(WORST_CASE, number + 1, len(chunks))
        return probability
