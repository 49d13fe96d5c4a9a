"""Accuracy of a model on clean images and under attacks, sample by sample.

Nothing here trusts an attack: whether a sample is still classified correctly is decided by forward passes of
their own, and an accuracy is the mean of stored per-sample results.
"""

from nenni_core.evaluation.evaluate import evaluate
from nenni_core.evaluation.masking import PROBES, MaskingVerdict, masking_probes, masking_verdict, verdict_of
from nenni_core.evaluation.probe import image_layout, is_random
from nenni_core.evaluation.results import (
    CLEAN,
    WORST_CASE,
    Accuracy,
    AttackOutcome,
    Evaluation,
    Examples,
    Median,
)

__all__ = [
    "CLEAN",
    "PROBES",
    "WORST_CASE",
    "Accuracy",
    "AttackOutcome",
    "Evaluation",
    "Examples",
    "MaskingVerdict",
    "Median",
    "evaluate",
    "image_layout",
    "is_random",
    "masking_probes",
    "masking_verdict",
    "verdict_of",
]
