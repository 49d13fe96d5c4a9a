"""Training: `train` with a `Recipe`; what a step minimises is an entry of `OBJECTIVES`."""

from nenni_core.training.loop import EpochRecord, TrainingResult, train
from nenni_core.training.objectives import OBJECTIVES, Objective, StepContext
from nenni_core.training.recipe import PRECISIONS, SCHEDULES, Recipe, learning_rate

__all__ = [
    "OBJECTIVES",
    "PRECISIONS",
    "SCHEDULES",
    "EpochRecord",
    "Objective",
    "Recipe",
    "StepContext",
    "TrainingResult",
    "learning_rate",
    "train",
]
