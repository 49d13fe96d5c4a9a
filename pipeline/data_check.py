"""Whether the prepared data have what an experiment asks for, found before anything is trained."""

from collections.abc import Mapping
from pathlib import Path

from nenni_core.chain.artifacts import DATASET, ModelSpec
from nenni_core.errors import InputError, unknown_choice
from nenni_core.files import read_json
from nenni_core.inject import injectable_layers
from pipeline.experiment import Experiment


def check_data(experiment: Experiment, prepared: Path) -> None:
    """Raise `InputError` if a later stage would ask for more, or larger, images than `prepared` has.

    Or if ratios are given by layer, and not for exactly the layers that the network has for such images.
    """
    facts = read_json(prepared / DATASET)
    size = min(facts["image_shape"][1:])
    asked: list[tuple[str, int | None, str]] = [("attack.images", experiment.attack.images, experiment.split)]
    padded = [("pretrain.crop_padding", experiment.pretrain.crop_padding)]
    if (variant := experiment.finetune) is not None:
        asked.append(("distill.images", experiment.distill.images, "train"))
        asked.append(("finetune.calibration_images", variant.calibration_images, "train"))
        padded.append(("finetune.crop_padding", variant.crop_padding))
    for name, count, split in asked:
        available = facts["images"][split]
        if count is not None and count > available:
            raise InputError(
                f"{name} is {count}; expected at most {available}, the images of the {split} split"
            )
    for name, padding in padded:
        if padding >= size:
            raise InputError(f"{name} is {padding}; expected below {size}, the image size: crops reflect")
    if variant is not None and variant.layer_ratios is not None:
        where = f"finetune.layer_ratios.{variant.layer_ratios_name}"
        _check_layers(where, variant.layer_ratios, layer_names(experiment, prepared))


def layer_names(experiment: Experiment, prepared: Path) -> list[str]:
    """The layers that get noise in the experiment's network for the images of `prepared`, in their order."""
    facts = read_json(prepared / DATASET)
    spec = ModelSpec.dense(
        experiment.pretrain.architecture,
        experiment.pretrain.defense.model_dump(),
        num_classes=len(facts["class_names"]),
        image_shape=tuple(facts["image_shape"]),
        mean=tuple(facts["mean"]),
        std=tuple(facts["std"]),
    )
    return injectable_layers(spec.build())


def _check_layers(where: str, ratios: Mapping[str, float], layers: list[str]) -> None:
    for name in ratios:
        if name not in layers:
            raise InputError(f"{where}: {unknown_choice('layer', name, layers)}")
    missing = [name for name in layers if name not in ratios]
    if missing:
        raise InputError(
            f"{where}: {len(missing)} of the network's {len(layers)} layers have no ratio, the first of them "
            f"{missing[0]!r}; expected one for each (0: no noise)"
        )
