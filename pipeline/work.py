"""How much a stage computes, in multiply-accumulates of the dense network, before it has run.

It need not be exact: it carries a measured time from one configuration to another (`pipeline.costs`), so only
proportions within one kind of stage matter. A backward pass counts as two forward passes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from nenni_core.data import dataset_extent
from pipeline.config import Section
from pipeline.defense_choice import DefenseChoice

GRADIENT = 3
"""Forward passes that one gradient costs."""
STANDARD_STEPS, TORCHATTACKS_STEPS = 100, 10
"""Steps of AutoAttack's parts as its authors run them, and as torchattacks does."""
TARGETS = 9
"""Other classes that its targeted attacks try."""
SURVIVING = 0.5
"""Assumed share of the images that earlier attacks have left to one that only gets those."""


@dataclass(frozen=True)
class Facts:
    """What the work of a stage depends on beside its own configuration."""

    model: str
    """Architecture, as it is built."""
    dataset: str
    train_images: int
    validation_images: int
    test_images: int


@cache
def multiplications(model: str, dataset: str) -> float:
    """Multiply-accumulates of the convolutions of one forward pass of one image."""
    from nenni_core.bitops import bitops
    from nenni_core.models import build_model

    extent = dataset_extent(dataset)
    channels, size, _ = extent.image_shape
    network = build_model(model, num_classes=extent.num_classes, in_channels=channels, image_size=size)
    return bitops(network, extent.image_shape).dense / 256  # BitOPs of a 16-bit multiply-accumulate


def stage_work(stage: str, config: Section | Mapping[str, Any], facts: Facts) -> float:
    """Multiply-accumulates of a stage; for `prepare`, which has none, images."""
    if stage == "prepare":
        return float(facts.train_images + facts.validation_images + facts.test_images)
    passes = {
        "pretrain": _training,
        "defend": _defending,
        "distill": _distilling,
        "finetune": _training,
        "attack": _attacking,
        "simulate": lambda config, facts: _value(config, "images", 16),
    }[stage](config, facts)
    return max(passes, 1.0) * multiplications(facts.model, facts.dataset)


def _value(config: Any, name: str, default: Any) -> Any:
    """A value of a section, or of its JSON form, in which what is not read is missing."""
    found = config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)
    return default if found is None else found


def _defense(config: Any) -> DefenseChoice:
    found = _value(config, "defense", None)
    return found if isinstance(found, DefenseChoice) else DefenseChoice.model_validate(found)


def _epoch(config: Any, facts: Facts, *, adversarial: bool) -> float:
    steps = _value(config, "steps", 10) if adversarial else 0
    validation = 1 + GRADIENT * _value(config, "validation_steps", 10)
    return facts.train_images * GRADIENT * (1 + steps) + facts.validation_images * validation


def _training(config: Any, facts: Facts) -> float:
    """Forward passes of a pre-training or a fine-tuning."""
    if (objective := _value(config, "objective", None)) is not None:
        adversarial = objective == "adversarial"
    else:
        adversarial = _defense(config).kind != "clean"
    return _value(config, "epochs", 1) * _epoch(config, facts, adversarial=adversarial)


def _defending(config: Any, facts: Facts) -> float:
    """Forward passes of a defence that starts from a trained network."""
    settings = _defense(config).settings
    return settings.get("epochs", 1) * _epoch(config, facts, adversarial=settings.get("base") != "clean")


def _distilling(config: Any, facts: Facts) -> float:
    images = _value(config, "images", facts.train_images)
    return images * (_value(config, "epochs", 50) if _value(config, "solver", "") == "sgd" else 1)


def _attacking(config: Any, facts: Facts) -> float:
    images = _value(config, "images", facts.test_images)
    attacks = _value(config, "attacks", {}).values()
    return images * _value(config, "ensemble", 1) * (1 + sum(_passes(attack) for attack in attacks))


def _passes(attack: Any) -> float:
    """Forward passes of one attack for one image."""
    draws = _value(attack, "eot_samples", 1)
    steps = _value(attack, "steps", 20)
    targets = 1 if _value(attack, "target", 0) else TARGETS
    queries = _value(attack, "queries", 5000)
    share = SURVIVING if _value(attack, "survivors_of", ()) else 1.0
    kinds = {
        "fgsm": GRADIENT,
        "apgd_dlr_targeted": GRADIENT * steps * targets * draws,
        "fab_targeted": GRADIENT * steps * targets * draws,
        "deepfool": GRADIENT * steps * (1 + TARGETS),
        "square": queries * draws,
        "autoattack_torchattacks": GRADIENT * TORCHATTACKS_STEPS * (1 + 2 * TARGETS) + 5000,
        "autoattack_standard": GRADIENT * STANDARD_STEPS * (1 + 2 * TARGETS) + 5000,
    }
    return share * kinds.get(_value(attack, "kind", ""), GRADIENT * steps * draws)
