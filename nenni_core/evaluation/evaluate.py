"""One model under one list of attacks, resumable at every batch."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter

import torch
from jaxtyping import Int, Num
from torch import Tensor, nn

from nenni_core.attacks.adapter import model_device
from nenni_core.attacks.kinds import check_classes, check_kind_of_model
from nenni_core.attacks.spec import AttackSpec
from nenni_core.attacks.untouched import frozen_for_evaluation, full_precision
from nenni_core.errors import InputError
from nenni_core.evaluation.bench import Bench, Worst
from nenni_core.evaluation.files import evaluation_guard, load_part, save_part
from nenni_core.evaluation.probe import TRIED, behaviour_digest, image_layout, is_random
from nenni_core.evaluation.results import CLEAN, WORST_CASE, AttackOutcome, Evaluation, Examples
from nenni_core.progress import ProgressCallback, silent
from nenni_core.randomness import set_noise

JUDGE_DRAWS = 20
"""Fresh draws of a random model's noise on which what an attack has found is judged."""


def evaluate(
    model: nn.Module,
    images: Num[Tensor, "images channels height width"],
    labels: Int[Tensor, "images"],
    attacks: Sequence[AttackSpec],
    *,
    num_classes: int,
    batch_size: int = 256,
    seed: int = 0,
    judge_draws: int = JUDGE_DRAWS,
    surrogate: nn.Module | None = None,
    on_progress: ProgressCallback = silent,
    keep_examples: int = 8,
    resume_dir: Path | None = None,
) -> Evaluation:
    """Judge `model` on uint8 `images`, clean and under each of `attacks`, in float32 and channels-last.

    Only images that are still classified correctly are attacked, in full batches of `batch_size`. Two calls
    with equal arguments give equal results to the bit. A random model (one with a noise stream, or that gives
    the same images other logits the second time) is judged on `judge_draws` fresh draws of its noise, and the
    worst images of all attacks together on as many again. The worst of several images is the worst by chance
    where few draws tell them apart: with few draws the worst case comes out too high. The models may be in
    any mode and are left as they were.

    `surrogate` is the network that attacks of the kind "transfer" are made on, usually the dense teacher.

    With `resume_dir`, the clean pass and each attacked batch are stored there, and a later call with the
    same models, images, attacks and seed takes them from there. That a model is the same is told by its
    weights, its settings and its logits for a few images.

    Raises `InputError` for images that are not uint8, labels outside the classes, unknown or equally named
    attacks, logits of a wrong shape or not finite, and a model that switches itself to training mode,
    changes its own buffers or draws noise that no seed repeats; `AttackError` if an attack breaks its
    contract.
    """
    _check_arguments(images, labels, attacks, num_classes, batch_size, keep_examples, judge_draws)
    images, labels = images.cpu(), labels.long().cpu()
    device = model_device(model, images.device)
    judged = [model] if surrogate is None else [model, surrogate]
    with ExitStack() as around:
        for network in judged:
            around.enter_context(frozen_for_evaluation(network))
            set_noise(network, "probe", seed)  # the network's own stream is not drawn from
        around.enter_context(full_precision(device))
        few = images[:TRIED].to(device).float().div(255)
        layout = image_layout(judged, few)
        few = few.contiguous(memory_format=layout)
        random = is_random(model, few)
        behaviour = [] if resume_dir is None else [behaviour_digest(network, few) for network in judged]
    for spec in attacks:
        check_kind_of_model(spec, random=random)
    settings = {"seed": seed, "num_classes": num_classes, "batch_size": batch_size, "examples": keep_examples}
    guard = "" if resume_dir is None else evaluation_guard(model, images, labels, settings)
    if resume_dir is not None and surrogate is not None:
        guard += evaluation_guard(surrogate, images[:0], labels[:0], {})
    guard = " ".join([guard, *behaviour])
    bench = Bench(
        model=model,
        surrogate=surrogate,
        images=images,
        labels=labels,
        num_classes=num_classes,
        batch_size=batch_size,
        seed=seed,
        device=device,
        layout=layout,
        random=random,
        draws=judge_draws if random else 1,
        folder=resume_dir,
        guard=guard,
    )
    with frozen_for_evaluation(model), full_precision(device):
        stored = load_part(resume_dir, CLEAN, guard)
        if stored is None:
            started = perf_counter()
            before = {name: buffer.clone() for name, buffer in model.named_buffers()}
            predicted = bench.clean_predictions(on_progress)
            _check_unchanged(model, before)
            stored = {"predicted": predicted}, {"seconds": perf_counter() - started}
            save_part(resume_dir, CLEAN, guard, *stored)
        else:
            on_progress(CLEAN, len(images), len(images))
        clean_predicted, clean_seconds = stored[0]["predicted"], float(stored[1]["seconds"])

        clean_correct = clean_predicted == labels
        keep = _one_of_each_class_first(clean_correct.nonzero().flatten(), labels, keep_examples)
        worst = Worst(images, clean_correct) if bench.draws > 1 else None
        outcomes: dict[str, AttackOutcome] = {}
        for spec in attacks:
            outcomes[spec.name] = bench.attack(spec, clean_predicted, outcomes, keep, worst, on_progress)
        judged_again = None if worst is None else bench.judge_worst(worst, clean_correct, on_progress)

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
        judged_again=judged_again,
    )


def _check_unchanged(model: nn.Module, before: Mapping[str, Tensor]) -> None:
    """`InputError` if a buffer is not what it was: each result would then depend on what was asked before."""
    for name, buffer in model.named_buffers():
        # not calibrated thresholds are NaN, which is not equal to itself
        if name in before and not torch.equal(buffer.nan_to_num(), before[name].nan_to_num()):
            raise InputError(
                f"the model changes its buffer {name!r} in evaluation mode; "
                "expected a forward pass that leaves the model as it is (batch norms in evaluation mode)"
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
    judge_draws: int,
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
    if judge_draws < 1:
        raise InputError(f"judge_draws is {judge_draws}, expected at least 1")
    earlier: list[str] = []
    for spec in attacks:
        check_classes(spec, num_classes)
        if spec.name in (CLEAN, WORST_CASE):
            raise InputError(f"an attack cannot be named {spec.name!r}, which is a column of its own")
        if spec.name in earlier:
            raise InputError(f"two attacks are named {spec.name!r}, expected different names")
        for name in spec.survivors_of:
            if name not in earlier:
                raise InputError(
                    f"attack {spec.name}: survivors_of names {name!r}, which is no earlier attack"
                )
        earlier.append(spec.name)
