"""Defences by name: `make_defense("trades", beta=6.0)`.

A new defence is one file with a subclass of `Defense`, and one entry of `DEFENSES`.
"""

from dataclasses import fields
from typing import Any

from nenni_core.defenses.adversarial_training import AdversarialTraining
from nenni_core.defenses.clean_training import CleanTraining
from nenni_core.defenses.defense import Defense, StepContext
from nenni_core.defenses.ensemble import Ensemble
from nenni_core.defenses.friendly import FriendlyTraining
from nenni_core.defenses.k_winners import KWinnersTakeAll
from nenni_core.defenses.learn2perturb import Learn2Perturb
from nenni_core.defenses.parametric_noise import ParametricNoise
from nenni_core.defenses.random_projection_filters import RandomProjectionFilters
from nenni_core.defenses.random_self_ensemble import MultiplicativeNoise, RandomSelfEnsemble
from nenni_core.defenses.robust_wrn import RobustWideResNet
from nenni_core.defenses.sparse import Sparse
from nenni_core.defenses.stochastic_pruning import StochasticActivationPruning
from nenni_core.defenses.trades import Trades
from nenni_core.defenses.weight_perturbation import AdversarialWeightPerturbation, TradesWeightPerturbation
from nenni_core.errors import unknown_choice

__all__ = ["DEFENSES", "Defense", "Ensemble", "StepContext", "make_defense"]

DEFENSES: dict[str, type[Defense]] = {
    "clean": CleanTraining,
    "adversarial": AdversarialTraining,
    "trades": Trades,
    "fat": FriendlyTraining,
    "awp": AdversarialWeightPerturbation,
    "trades_awp": TradesWeightPerturbation,
    "robust_wrn": RobustWideResNet,
    "rse_add": RandomSelfEnsemble,
    "rse_multiply": MultiplicativeNoise,
    "rpf": RandomProjectionFilters,
    "pni": ParametricNoise,
    "learn2perturb": Learn2Perturb,
    "sparse": Sparse,
    "k_winners": KWinnersTakeAll,
    "sap": StochasticActivationPruning,
}
"""The classes by the names that configurations use."""


def make_defense(kind: str, **settings: Any) -> Defense:
    """The defence called `kind`, with its published hyperparameters where `settings` has no others.

    Raises `InputError` for an unknown name, an unknown setting or a value outside its range.
    """
    if kind not in DEFENSES:
        raise unknown_choice("defence", kind, list(DEFENSES))
    known = [field.name for field in fields(DEFENSES[kind])]
    for name in settings:
        if name not in known:
            raise unknown_choice(f"setting of the defence {kind!r}", name, known)
    return DEFENSES[kind](**settings)
