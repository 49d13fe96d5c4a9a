"""A set of experiments that is as small as it can be and still passes through every stage."""

from typing import Any

TINY: dict[str, Any] = {
    "seed": 0,
    "tracking": {"experiment": "test"},
    "prepare": {"dataset": "synthetic", "train_images": 48, "test_images": 20, "validation_images": 12},
    "pretrain": {
        "model": "small_resnet",
        "epochs": 2,
        "batch_size": 12,
        "learning_rate": 0.05,
        "schedule": "constant",
        "steps": 2,
        "validation_steps": 2,
        "crop_padding": 1,
        "flip": False,
    },
    "distill": {"images": 24, "batch_size": 12},
    "finetune": {
        "ratio": [0.9],
        "pattern": [],
        "objective": ["clean"],
        "batch_size": 12,
        "steps": 2,
        "validation_steps": 2,
        "crop_padding": 0,
        "flip": False,
        "calibration_images": 24,
    },
    "attack": {
        "images": 12,
        "batch_size": 12,
        "examples": 3,
        "attacks": {
            "fgsm": {"kind": "fgsm"},
            "pgd20_straight_through": {"kind": "pgd", "steps": 2, "gradient": "straight_through"},
        },
    },
}
