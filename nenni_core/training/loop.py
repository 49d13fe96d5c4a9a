"""The training loop: one for all defences, restartable after every epoch to the same bits."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from nenni_core.attacks.untouched import seeded_global_generators
from nenni_core.checkpoint import latest_checkpoint, portable, refuse_another_run, write_checkpoint
from nenni_core.defenses.adversarial_training import AdversarialTraining
from nenni_core.defenses.defense import Defense, StepContext
from nenni_core.errors import InputError, TrainingDiverged
from nenni_core.inject import injected_layers
from nenni_core.modes import eval_mode, kept_modes, kept_streams
from nenni_core.progress import ProgressCallback, silent
from nenni_core.randomness import derive_seed, make_generator, set_noise
from nenni_core.training.augmentation import augment, pixels
from nenni_core.training.recipe import Recipe, learning_rate
from nenni_core.training.state import identity, pack, unpack
from nenni_core.training.validation import autocast, validate

# The counts have names of their own in each: where they disagree, the user gets an `InputError`.
Stored = UInt8[Tensor, "images channels height width"]
Labels = Int[Tensor, "labels"]
HeldOut = UInt8[Tensor, "held_out held_out_channels held_out_height held_out_width"]
HeldOutLabels = Int[Tensor, "held_out_labels"]

ADVERSARIAL_TRAINING = AdversarialTraining()

DIVERGENCE_CHECK_INTERVAL = 64
"""Batches between two looks of a CPU at whether the loss is finite. An accelerator, which a look would wait
for, is asked after each epoch."""


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """What one epoch gave; accuracies are fractions in [0, 1]."""

    epoch: int
    """Counted from 1."""
    learning_rate: float
    """That of the last batch."""
    train_loss: float
    """Mean over the training images, as the weights were when each was seen."""
    train_accuracy: float
    """On what was trained on: for adversarial training the attacked images."""
    validation_clean_accuracy: float
    validation_robust_accuracy: float
    """Under PGD with the recipe's `validation_steps`."""
    seconds: float = field(compare=False)
    """Wall-clock time of training and validation."""


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """The two checkpoints that Rice et al. 2020 compare, and how training went.

    States are state_dicts of contiguous CPU tensors that share no memory.
    """

    best: dict[str, Tensor]
    """After the first epoch with the highest validation accuracy (robust or clean, as the defence says)."""
    last: dict[str, Tensor]
    history: list[EpochRecord]
    best_epoch: int
    """Counted from 1."""


def train(
    model: nn.Module,
    train_images: Stored,
    train_labels: Labels,
    validation_images: HeldOut,
    validation_labels: HeldOutLabels,
    recipe: Recipe,
    *,
    seed: int,
    checkpoint_dir: Path | None,
    defense: Defense = ADVERSARIAL_TRAINING,
    on_progress: ProgressCallback = silent,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    compiled: bool = False,
) -> TrainingResult:
    """Train `model` in place, in train mode, on the device of its parameters.

    What is minimised is up to the `defense`, whose `wrap` has made `model`. The rest is as in Rice et al.
    2020, "Overfitting in adversarially robust deep learning": SGD with momentum, the validation images
    being a held-out slice of the *training* set. All parameters that ask for a gradient are trained.
    Convolution weights become channels-last in memory; the model ends with the weights of
    `TrainingResult.last` and its modules' former train/eval modes. Shuffling, augmentation, attack and the
    noise of a random model have a stream each, derived from `seed`; the global generator is not touched.
    On the CPU equal arguments give equal bits (for a fixed number of threads).

    With a `checkpoint_dir`, a checkpoint is written after every epoch, and the same call continues
    after the last whole one, to the bits of an uninterrupted run; once finished, it returns at once.
    `model` must then come with the weights that it had at the first start. `on_progress` counts the
    batches of all epochs, validation included; `on_epoch` gets the record of each epoch that this call
    trained, after its checkpoint is on the disk. Both may raise to stop the training. `compiled` fuses the
    operations of a network without injected noise by `torch.compile`, which rounds differently.

    Raises `InputError` for unusable data or a `checkpoint_dir` of another run, and `TrainingDiverged` for a
    loss, weight or statistic that is NaN or infinite; no checkpoint is written of such an epoch.
    """
    if train_images.shape[1:] != validation_images.shape[1:]:
        shapes = tuple(train_images.shape[1:]), tuple(validation_images.shape[1:])
        raise InputError(
            f"validation images have shape {shapes[1]}; expected that of the training images, {shapes[0]}"
        )
    _check_data("training", model, train_images, train_labels, recipe)
    _check_data("validation", model, validation_images, validation_labels, recipe)
    with kept_streams(model), kept_modes(model):
        run = _Run(
            model,
            train_images,
            train_labels,
            validation_images,
            validation_labels,
            recipe,
            seed,
            defense,
            compiled,
        )
        expected: dict[str, object] = {}
        if checkpoint_dir is not None:
            expected = identity(model, run.data, recipe, seed, defense)
            found = latest_checkpoint(checkpoint_dir)
            if found is not None:
                refuse_another_run(found[1]["identity"], expected, checkpoint_dir.name)
                run.restore(*found)
        model.train()
        for epoch in range(len(run.history), recipe.epochs):
            # layers of users, such as dropout, know the global generators only
            with seeded_global_generators(derive_seed(seed, "global", str(epoch)), run.device):
                run.train_epoch(epoch, on_progress)
            if checkpoint_dir is not None:
                run.save(checkpoint_dir, expected)
            if on_epoch is not None:
                on_epoch(run.history[-1])
    return TrainingResult(
        best=run.best, last=portable(model.state_dict()), history=run.history, best_epoch=run.best_epoch
    )


def training_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    x: Float[Tensor, "batch channels height width"],
    y: Int[Tensor, "batch"],
    *,
    recipe: Recipe,
    generator: torch.Generator,
    defense: Defense = ADVERSARIAL_TRAINING,
    position: float = 0.0,
) -> tuple[Float[Tensor, ""], Float[Tensor, "batch classes"]]:
    """One step of `optimizer` on the loss of `defense`; the loss and the logits before it, detached.

    `x` is in [0, 1]; `generator` is the stream of the attack; `position` is where the training is, in epochs
    from 0. Nothing in here waits for the device.
    """
    with ExitStack() as after_step:
        context = StepContext(
            eps=recipe.eps,
            step_size=recipe.step_size,
            steps=recipe.steps,
            generator=generator,
            position=position,
            epochs=recipe.epochs,
            after_step=after_step,
        )
        defense.maintain(model, context)
        with autocast(x.device, recipe):
            loss, logits = defense.step(model, x, y, context)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.detach(), logits.detach()


class _Run:
    """The state of one call of `train`: everything that a checkpoint holds."""

    def __init__(
        self,
        model: nn.Module,
        train_images: Stored,
        train_labels: Labels,
        validation_images: HeldOut,
        validation_labels: HeldOutLabels,
        recipe: Recipe,
        seed: int,
        defense: Defense,
        compiled: bool,
    ) -> None:
        device = next(model.parameters()).device
        self.model, self.recipe, self.seed, self.device = model, recipe, seed, device
        self.defense = defense
        self.data = {
            "train_images": train_images.to(device),
            "train_labels": train_labels.to(device, torch.int64),
            "validation_images": validation_images.to(device),
            "validation_labels": validation_labels.to(device, torch.int64),
        }
        lay_out_channels_last(model)
        self.optimizer = torch.optim.SGD(
            defense.parameter_groups(model),
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
        )
        set_noise(model, "training", seed)
        # Injected layers choose neurons in Python and keep kernels between calls: each would break the graph.
        # Shapes are marked as fixed: there are two, the full batch and the last one.
        fuse = compiled and not injected_layers(model)
        self.network = cast(nn.Module, torch.compile(model, dynamic=False)) if fuse else model
        """The model as it is called: it shares everything with `model`."""
        self.generators = {
            name: make_generator(seed, name, device=device)
            for name in ("shuffling", "augmentation", "attack")
        }
        # A model may keep NaN where nothing has been set yet; that is no divergence.
        state = model.state_dict().items()
        self.finite = [name for name, tensor in state if bool(tensor.isfinite().all())]
        self.history: list[EpochRecord] = []
        self.best: dict[str, Tensor] = {}
        self.best_epoch = 0
        self.bounds = batch_bounds(len(train_labels), recipe.batch_size)
        self.validation_batches = -(-len(validation_labels) // recipe.batch_size)

    def train_epoch(self, epoch: int, on_progress: ProgressCallback) -> None:
        """Train and validate epoch `epoch`, counted from 0, and add its record to the history."""
        start = time.perf_counter()
        per_epoch = len(self.bounds) + self.validation_batches
        done = epoch * per_epoch

        def advance() -> None:
            nonlocal done
            done += 1
            on_progress("training", done, self.recipe.epochs * per_epoch)

        loss, accuracy = self._train(epoch, advance)
        clean, robust = validate(
            self.network,
            self.data["validation_images"],
            self.data["validation_labels"],
            self.recipe,
            seed=self.seed,
            on_batch=advance,
        )
        record = EpochRecord(
            epoch=epoch + 1,
            learning_rate=self._learning_rate(epoch, len(self.bounds) - 1),
            train_loss=loss,
            train_accuracy=accuracy,
            validation_clean_accuracy=clean,
            validation_robust_accuracy=robust,
            seconds=time.perf_counter() - start,
        )
        score = {"clean": clean, "robust": robust}[self.defense.select_by]
        if not self.best_epoch or score > self._best_score():
            self.best, self.best_epoch = portable(self.model.state_dict()), record.epoch
        self.history.append(record)

    def _train(self, epoch: int, advance: Callable[[], None]) -> tuple[float, float]:
        """One pass over the training images: the mean loss and the accuracy."""
        images, labels = self.data["train_images"], self.data["train_labels"]
        order = torch.randperm(len(labels), generator=self.generators["shuffling"], device=self.device)
        # Sums stay on the device: reading one would make the host wait for the step.
        loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        correct = torch.zeros((), dtype=torch.int64, device=self.device)
        generator = self.generators["attack"]
        first_bad = torch.full((), len(self.bounds), device=self.device)
        for batch, (low, high) in enumerate(self.bounds):
            index = order[low:high]
            x, y = self._augmented(images, index), labels[index]
            rate = self._learning_rate(epoch, batch)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            loss, logits = training_step(
                self.network,
                self.optimizer,
                x,
                y,
                recipe=self.recipe,
                generator=generator,
                defense=self.defense,
                position=epoch + batch / len(self.bounds),
            )
            loss_sum += loss.double() * (high - low)
            correct += (logits.argmax(1) == y).sum()
            first_bad = torch.where(loss.isfinite(), first_bad, first_bad.clamp(max=batch))
            if _looks_are_free(self.device) and (batch + 1) % DIVERGENCE_CHECK_INTERVAL == 0:
                self._check_finite(epoch, first_bad)
            advance()
        self._check_finite(epoch, first_bad)
        # No loss saw what the last step did to the weights, so they are looked at themselves.
        last = torch.where(self._weights_are_finite(), first_bad, first_bad.clamp(max=len(self.bounds) - 1))
        self._check_finite(epoch, last)
        return loss_sum.item() / len(labels), correct.item() / len(labels)

    def _augmented(self, images: Stored, index: Tensor) -> Tensor:
        recipe = self.recipe
        if recipe.crop_padding == 0 and not recipe.flip:
            return pixels(images[index])
        return augment(
            images,
            index,
            padding=recipe.crop_padding,
            flip=recipe.flip,
            generator=self.generators["augmentation"],
        )

    def _learning_rate(self, epoch: int, batch: int) -> float:
        return learning_rate(self.recipe, epoch, batch, len(self.bounds))

    def _best_score(self) -> float:
        best = self.history[self.best_epoch - 1]
        if self.defense.select_by == "clean":
            return best.validation_clean_accuracy
        return best.validation_robust_accuracy

    def _weights_are_finite(self) -> Tensor:
        state = self.model.state_dict()
        return torch.stack([state[name].isfinite().all() for name in self.finite]).all()

    def _check_finite(self, epoch: int, first_bad: Tensor) -> None:
        batch = int(first_bad)
        if batch < len(self.bounds):
            raise TrainingDiverged(
                f"training diverged: NaN or infinity in epoch {epoch + 1} of {self.recipe.epochs}, "
                f"batch {batch + 1} of {len(self.bounds)}, at learning rate "
                f"{self._learning_rate(epoch, batch):g}; expected a finite loss, try a lower learning rate"
            )

    def save(self, directory: Path, run_identity: dict[str, object]) -> None:
        """Write the state after the last epoch of the history."""
        tensors = pack(self.model, self.optimizer, self.generators, self.best)
        record = {
            "identity": run_identity,
            "history": [asdict(entry) for entry in self.history],
            "best_epoch": self.best_epoch,
        }
        write_checkpoint(directory, len(self.history), tensors, record)

    def restore(self, tensors: dict[str, Tensor], record: dict) -> None:
        """Undo `save`."""
        self.best = unpack(self.model, self.optimizer, self.generators, tensors)
        self.history = [EpochRecord(**entry) for entry in record["history"]]
        self.best_epoch = record["best_epoch"]


def _looks_are_free(device: torch.device) -> bool:
    """Whether the host can read a value without waiting for other work."""
    return device.type == "cpu"


def batch_bounds(count: int, batch_size: int) -> list[tuple[int, int]]:
    """First and past-the-last index of each batch of one epoch; the last one may be short.

    A last batch of a single image is joined to the one before it, since batch normalisation cannot
    estimate a variance from it.
    """
    starts = list(range(0, count, batch_size))
    if len(starts) > 1 and count - starts[-1] == 1:
        starts.pop()
    return list(zip(starts, [*starts[1:], count], strict=True))


def lay_out_channels_last(model: nn.Module) -> None:
    """Convolution weights channels-last in memory; buffers, which are not convolved with, stay."""
    for parameter in model.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def _check_data(kind: str, model: nn.Module, images: Stored, labels: Labels, recipe: Recipe) -> None:
    """Refuse what would fail, or quietly go wrong, in the middle of an epoch."""
    if len(images) != len(labels) or len(labels) == 0:
        raise InputError(
            f"{kind} data have {len(images)} images and {len(labels)} labels; expected as many, 1 or more"
        )
    smallest = min(images.shape[-2:])
    if recipe.crop_padding >= smallest:
        raise InputError(
            f"crop_padding is {recipe.crop_padding}; expected below the image size, {smallest}: it reflects"
        )
    device = next(model.parameters()).device
    with eval_mode(model), torch.no_grad():
        classes = model(pixels(images[:1].to(device))).shape[1]
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise InputError(
            f"{kind} labels range from {low} to {high}; expected 0 to {classes - 1}, the classes of the model"
        )
