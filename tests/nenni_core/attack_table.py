"""The attacks that the tests run: a new attack is one new row."""

import pytest
from attack_models import CLASSES
from torch import Tensor, nn

from nenni_core.attacks import AttackSpec, run_attack

# One row per attack; `passes` is the number of forward and of backward passes per sample.
TABLE = [
    (AttackSpec(name="fgsm", kind="fgsm"), 1),
    (AttackSpec(name="pgd20", kind="pgd", steps=20), 20),
    (AttackSpec(name="pgd7_centred", kind="pgd", steps=7, random_start=False), 7),
    (AttackSpec(name="mifgsm", kind="mifgsm", steps=5), 5),
    (AttackSpec(name="mifgsm_forgetful", kind="mifgsm", steps=6, decay=0.0), 6),
]
SPECS = [row[0] for row in TABLE]
BY_NAME = {spec.name: spec for spec in SPECS}
every_row = pytest.mark.parametrize(("spec", "passes"), TABLE, ids=list(BY_NAME))
every_attack = pytest.mark.parametrize("spec", SPECS, ids=list(BY_NAME))


def attack(spec: AttackSpec, model: nn.Module, x: Tensor, y: Tensor, **changes) -> Tensor:
    """`run_attack` with seed 1 and the four classes of the small models."""
    return run_attack(spec, model, x, y, **({"seed": 1, "num_classes": CLASSES} | changes))
