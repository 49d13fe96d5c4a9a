"""Whether the prepared data have what an experiment asks for, found before anything is trained."""

from pathlib import Path

from nenni_core.errors import InputError
from pipeline.artifacts import DATASET
from pipeline.experiment import Experiment
from pipeline.files import read_json


def check_data(experiment: Experiment, prepared: Path) -> None:
    """Raise `InputError` if a later stage would ask for more, or larger, images than `prepared` has."""
    facts = read_json(prepared / DATASET)
    size = min(facts["image_shape"][1:])
    asked = [("attack.images", experiment.attack.images, "test")]
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
