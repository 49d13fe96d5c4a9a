"""How much a stage computes, in floating-point operations: for its share of a device's peak."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.chain_plan import Step
from nenni_core.bitops import bitops
from nenni_core.chain.artifacts import DATASET
from nenni_core.data import Extent, dataset_extent
from nenni_core.files import read_json
from nenni_core.models import build_model
from nenni_core.training import Recipe

OPERATIONS = 2
"""A multiply-accumulate is two operations."""


def network_macs(architecture: str, extent: Extent) -> int:
    """Multiply-accumulates of the convolutions of one forward pass of one image."""
    channels, size, _ = extent.image_shape
    network = build_model(architecture, num_classes=extent.num_classes, in_channels=channels, image_size=size)
    return bitops(network, extent.image_shape).macs


def training_passes(recipe: Recipe, images: int, held_out: int, *, adversarial: bool) -> float:
    """Forward passes that a training is as long as.

    A gradient of the input is as long as a forward pass, one of the weights too: a step of PGD counts two
    (no weights), the step of the optimiser three. Validation is PGD and two forward passes.
    """
    training = 3 + (2 * recipe.steps if adversarial else 0)
    return recipe.epochs * (images * training + held_out * (2 + 2 * recipe.validation_steps))


def stage_flop(
    step: Step, macs: int, counts: Mapping[str, int], metrics: Mapping[str, float] | None = None
) -> float | None:
    """Floating-point operations of a stage; None where they are not counted.

    Convolutions of the network, twice where noise is injected: the folded approximation is as large. `counts`
    are the images by split. An attack is known only from its `metrics`.
    """
    train, held_out = counts["train"], counts["validation"]
    if step.stage == "pretrain":
        passes = training_passes(step.settings.recipe, train, held_out, adversarial=True)
    elif step.stage == "finetune":
        adversarial = step.settings.objective == "adversarial"
        passes = 2 * training_passes(step.settings.recipe, train, held_out, adversarial=adversarial)
    elif step.stage == "attack" and metrics is not None:
        images = sum(value for name, value in metrics.items() if name.startswith(("forwards/", "backwards/")))
        passes = (1 if step.label == "dense" else 2) * (images + metrics["images"])
    else:
        return None
    return float(OPERATIONS * macs * passes)


def image_counts(prepared: Path) -> dict[str, int]:
    """Images by split of a finished `prepare`."""
    return read_json(prepared / DATASET)["images"]


def expected_counts(settings: Any) -> dict[str, int]:
    """The same before anything is prepared."""
    extent = dataset_extent(settings.dataset)
    images = settings.train_images or extent.train_images
    return {
        "train": images - settings.validation_images,
        "validation": settings.validation_images,
        "test": settings.test_images or extent.test_images,
    }


def working_seconds(timing: Mapping[str, Any]) -> float:
    """The seconds of the work itself: of epochs, attacks and the like, without reading and writing."""
    total = 0.0
    for name, value in timing.items():
        if name.startswith("seconds/"):
            total += sum(value) if isinstance(value, list) else value
    return total
