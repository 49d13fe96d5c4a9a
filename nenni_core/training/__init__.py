"""Training: `train` with a `Recipe`, for any defence of `nenni_core.defenses`."""

from nenni_core.training.loop import EpochRecord, TrainingResult, train
from nenni_core.training.recipe import PRECISIONS, SCHEDULES, Recipe, learning_rate

__all__ = [
    "PRECISIONS",
    "SCHEDULES",
    "EpochRecord",
    "Recipe",
    "TrainingResult",
    "learning_rate",
    "train",
]
