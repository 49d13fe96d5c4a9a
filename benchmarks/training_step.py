"""How fast one step of adversarial training is, and that bfloat16 costs no accuracy.

    python -m benchmarks.training_step --out step.json      # speed
    python -m benchmarks.training_step --accuracy           # accuracy in bfloat16 against float32

The base is the loop as one writes it with torchattacks: PGD-10 with the model in train mode (as Rice et
al. 2020 train), float32, channels first, the loss read in every step. Each row below it adds one thing;
the last one is the step that `nenni_core.training.train` takes. All rows do the same arithmetic on the
same images, up to rounding.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import mean, stdev

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.options import Parser, count
from benchmarks.timing import Timing, interleave, markdown_table, timing_record, write_json
from nenni_core.allocation import keep_freed_memory
from nenni_core.data import DATASETS, load_dataset
from nenni_core.models import MODELS, build_model
from nenni_core.randomness import make_generator
from nenni_core.training import Recipe, train
from nenni_core.training.loop import training_step
from nenni_core.training.validation import validate

BASE = "torchattacks loop"
CLASSES = 10


def steps_to_compare(
    model: str, image_size: int, recipe: Recipe, device: torch.device
) -> dict[str, Callable[[], object]]:
    """The cases, each with a model and an optimiser of its own, on the same images."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(recipe.batch_size, 3, image_size, image_size, generator=generator).to(device)
    y = torch.randint(CLASSES, (recipe.batch_size,), generator=generator).to(device)

    def case(recipe: Recipe, memory_format: torch.memory_format) -> Callable[[], object]:
        net, optimizer = _model_and_optimizer(model, image_size, recipe, device, memory_format)
        inputs = x.contiguous(memory_format=memory_format)
        attack = make_generator(0, "attack", device=device)
        return lambda: training_step(net, optimizer, inputs, y, recipe=recipe, generator=attack)

    return {
        BASE: _torchattacks_step(model, image_size, recipe, x, y),
        "+ no parameter gradients": case(recipe, torch.contiguous_format),
        "+ channels last": case(recipe, torch.channels_last),
        "+ bfloat16": case(replace(recipe, precision="bfloat16"), torch.channels_last),
    }


def _model_and_optimizer(
    name: str, image_size: int, recipe: Recipe, device: torch.device, memory_format: torch.memory_format
) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = build_model(name, num_classes=CLASSES, image_size=image_size).to(device)
    model.to(memory_format=memory_format)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(
        model.parameters(), recipe.learning_rate, recipe.momentum, weight_decay=recipe.weight_decay
    )
    return model.train(), optimizer


def _torchattacks_step(
    name: str, image_size: int, recipe: Recipe, x: torch.Tensor, y: torch.Tensor
) -> Callable[[], object]:
    import torchattacks

    model, optimizer = _model_and_optimizer(name, image_size, recipe, x.device, torch.contiguous_format)
    attack = torchattacks.PGD(model, eps=recipe.eps, alpha=recipe.step_size, steps=recipe.steps)
    attack.set_model_training_mode(model_training=True, batchnorm_training=True, dropout_training=True)

    def step() -> float:
        x_adv = attack(x, y)
        loss = F.cross_entropy(model(x_adv), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def speed_table(timings: Sequence[Timing]) -> str:
    """Markdown: milliseconds and speed-up over the base, median [quartiles]."""
    base = timings[0]
    rows = []
    for timing in timings:
        milliseconds = Timing(timing.name, tuple(1000 * s for s in timing.seconds)).spread_s
        rows.append([timing.name, f"{milliseconds:.0f}", f"{timing.speedup_over(base):.2f}"])
    return markdown_table(["one step", "ms", "times faster"], rows)


def measure_speed(arguments: argparse.Namespace) -> dict[str, object]:
    """Time the cases, print the table."""
    recipe = Recipe(epochs=1, batch_size=arguments.batch_size, steps=arguments.steps)
    device = torch.device(arguments.device)
    cases = steps_to_compare(arguments.model, arguments.image_size, recipe, device)
    timings = interleave(
        cases,
        rounds=arguments.rounds,
        on_round=lambda done, total: print(f"round {done} of {total}", flush=True),
    )
    size = arguments.image_size
    print(
        f"\n{arguments.model}, {size}x{size}, batch {recipe.batch_size}, PGD-{recipe.steps}, {device}; ",
        end="",
    )
    print(f"median [quartiles] of {arguments.rounds} interleaved rounds\n\n{speed_table(timings)}")
    return {
        "model": arguments.model,
        "image_size": size,
        "device": str(device),
        "recipe": asdict(recipe),
        "rows": timing_record(timings, BASE),
    }


def measure_accuracy(arguments: argparse.Namespace) -> dict[str, object]:
    """Train with each seed in both precisions, print the paired differences of the test accuracies."""
    data = load_dataset(arguments.data)
    device = torch.device(arguments.device)
    images, labels, test_images, test_labels = (
        torch.from_numpy(array).to(device)
        for array in (data.train_images, data.train_labels, data.test_images, data.test_labels)
    )
    recipe = Recipe(
        epochs=arguments.epochs,
        batch_size=64,
        learning_rate=0.05,
        schedule="one_cycle",
        steps=arguments.steps,
        crop_padding=1,
        flip=False,
        validation_steps=20,
    )
    rows: list[dict[str, object]] = []
    for seed in range(arguments.seeds):
        for precision in ("float32", "bfloat16"):
            model = build_model(
                arguments.model,
                num_classes=len(data.class_names),
                in_channels=data.train_images.shape[1],
                image_size=data.train_images.shape[-1],
                seed=seed,
            ).to(device)
            # The test images take the place of the validation images, which choose nothing here: it is
            # the last epoch that is compared, judged in float32 whatever it was trained in.
            trained = replace(recipe, precision=precision)
            train(model, images, labels, test_images, test_labels, trained, seed=seed, checkpoint_dir=None)
            clean, robust = validate(
                model, test_images, test_labels, recipe, seed=seed, on_batch=lambda: None
            )
            rows.append({"seed": seed, "precision": precision, "clean": clean, "robust": robust})
            print(f"seed {seed}, {precision}: clean {clean:.4f}, PGD-20 {robust:.4f}", flush=True)
    print(f"\n{arguments.model} on {arguments.data}, {len(data.test_labels)} test images")
    print(f"{arguments.seeds} seeds, {arguments.epochs} epochs of PGD-{arguments.steps} training\n")
    print(accuracy_table(rows))
    return {"model": arguments.model, "data": arguments.data, "recipe": asdict(recipe), "runs": rows}


def accuracy_table(rows: Sequence[dict]) -> str:
    """Markdown: mean accuracies in percent and the paired difference with its 95% interval in points."""
    table = []
    for column in ("clean", "robust"):
        full, half = (
            [100 * row[column] for row in rows if row["precision"] == p] for p in ("float32", "bfloat16")
        )
        differences = [b - a for a, b in zip(full, half, strict=True)]
        centre, reach = mean_interval(differences)
        table.append([column, f"{mean(full):.2f}", f"{mean(half):.2f}", f"{centre:+.2f} ± {reach:.2f}"])
    return markdown_table(["accuracy, %", "float32", "bfloat16", "difference, 95% interval"], table)


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and half the width of its 95% confidence interval by Student's t (two values at least)."""
    from scipy.stats import t

    return mean(values), float(t.ppf(0.975, len(values) - 1)) * stdev(values) / len(values) ** 0.5


def step_options(description: str | None, rounds: int) -> Parser:
    """The options of a benchmark that times training steps."""
    parser = Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(MODELS), default="small_resnet")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=count, default=10, help="steps of PGD (default: %(default)s)")
    parser.add_argument("--batch-size", type=count, default=128)
    parser.add_argument("--image-size", type=count, default=32)
    parser.add_argument(
        "--rounds", type=count, default=rounds, help="interleaved repetitions (default: %(default)s)"
    )
    parser.add_argument("--threads", type=count, help="CPU threads (default: PyTorch's choice)")
    parser.add_argument("--out", type=Path, help="write the measurements here, as JSON")
    return parser


def main() -> None:
    parser = step_options(__doc__, rounds=7)
    parser.add_argument("--accuracy", action="store_true", help="train in both precisions instead of timing")
    parser.add_argument("--data", choices=sorted(DATASETS), default="digits", help="with --accuracy")
    parser.add_argument("--epochs", type=count, default=8, help="with --accuracy")
    parser.add_argument("--seeds", type=count, default=10, help="with --accuracy, 2 or more")
    arguments = parser.parse_args()
    if arguments.accuracy and arguments.seeds < 2:
        parser.error("--seeds: expected 2 or more, an interval needs a spread")
    keep_freed_memory()  # as all commands of the pipeline do
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    measured = measure_accuracy(arguments) if arguments.accuracy else measure_speed(arguments)
    if arguments.out is not None:
        write_json(arguments.out, measured)


if __name__ == "__main__":
    main()
