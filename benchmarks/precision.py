"""What training in bfloat16 instead of float32 does to the accuracy: the digits, adversarially, over seeds.

    python -m benchmarks.precision --seeds 3

Both trainings of a seed begin with the same weights and see the same images, crops and random starts. Both
are evaluated in float32: clean, and under PGD with 20 steps.
"""

import argparse
from statistics import mean, stdev

import torch
from torch import Tensor, nn

from benchmarks.options import Parser, count
from nenni_core.attacks.pgd import pgd
from nenni_core.data import channel_statistics, load_dataset, split_validation
from nenni_core.device import choose_device, configure_torch
from nenni_core.models import build_model
from nenni_core.modes import eval_mode
from nenni_core.randomness import make_generator
from nenni_core.training import PRECISIONS, Recipe, train
from nenni_core.training.augmentation import pixels

EPS, STEP_SIZE = 32 / 255, 8 / 255
"""Of the demo: strokes of digits have full contrast."""


def recipe(precision: str, epochs: int) -> Recipe:
    """The demo's training (params.yaml)."""
    return Recipe(
        epochs=epochs,
        batch_size=64,
        schedule="one_cycle",
        milestones=(),
        eps=EPS,
        step_size=STEP_SIZE,
        steps=7,
        crop_padding=1,
        flip=False,
        precision=precision,
    )


def accuracies(model: nn.Module, images: Tensor, labels: Tensor, seed: int) -> tuple[float, float]:
    """Clean and under PGD-20, as fractions."""
    x = pixels(images)
    with eval_mode(model):
        generator = make_generator(seed, "precision", device=x.device)
        x_adv = pgd(model, x, labels, eps=EPS, step_size=STEP_SIZE, steps=20, generator=generator)
        with torch.no_grad():
            clean, robust = (float((model(given).argmax(1) == labels).float().mean()) for given in (x, x_adv))
    return clean, robust


def trained(precision: str, seed: int, epochs: int, device: str) -> tuple[float, float]:
    """Accuracies on the test images of the network that one training ends with."""
    raw = load_dataset("digits")
    here, held_out = split_validation(raw.train_labels, 157, 0)
    mean_, std = channel_statistics(raw.train_images[here])
    channels, size, _ = raw.image_shape
    model = build_model(
        "small_resnet",
        num_classes=raw.num_classes,
        in_channels=channels,
        image_size=size,
        mean=mean_,
        std=std,
        seed=seed,
    ).to(device)
    images, labels = torch.from_numpy(raw.train_images), torch.from_numpy(raw.train_labels)
    train(
        model,
        images[here],
        labels[here],
        images[held_out],
        labels[held_out],
        recipe(precision, epochs),
        seed=seed,
        checkpoint_dir=None,
    )
    attacked, truth = (torch.from_numpy(array).to(device) for array in (raw.test_images, raw.test_labels))
    return accuracies(model, attacked, truth, seed)


def main() -> None:
    """Print the accuracies of each seed, and the difference over the seeds."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=count, default=3, help="(default: %(default)s)")
    parser.add_argument("--epochs", type=count, default=20, help="(default: %(default)s)")
    parser.add_argument("--threads", type=count, help="CPU threads (default: PyTorch's choice)")
    arguments = parser.parse_args()
    device = choose_device("auto")
    configure_torch(arguments.threads, device)
    differences: list[tuple[float, float]] = []
    for seed in range(arguments.seeds):
        found = {name: trained(name, seed, arguments.epochs, device) for name in sorted(PRECISIONS)}
        for name, (clean, robust) in found.items():
            print(f"seed {seed}, {name}: clean {100 * clean:.2f}%, PGD-20 {100 * robust:.2f}%", flush=True)
        low, full = found["bfloat16"], found["float32"]
        differences.append((100 * (low[0] - full[0]), 100 * (low[1] - full[1])))
    for name, values in zip(("clean", "PGD-20"), zip(*differences, strict=True), strict=True):
        spread = f", standard deviation {stdev(values):.2f}" if len(values) > 1 else ""
        points = f"{mean(values):+.2f} points{spread}"
        print(f"bfloat16 - float32, {name}: {points}, {len(values)} seeds on {device}")


if __name__ == "__main__":
    main()
