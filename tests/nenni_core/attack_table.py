"""The attacks that the tests run: a new attack is one new row."""

import pytest
from attack_models import CLASSES
from torch import Tensor, nn

from nenni_core.attacks import ATTACKS, AttackSpec, run_attack

# One row per attack; `passes` is the number of forward and of backward passes per sample.
TABLE = [
    (AttackSpec(name="fgsm", kind="fgsm"), 1),
    (AttackSpec(name="pgd20", kind="pgd", steps=20), 20),
    (AttackSpec(name="pgd7_centred", kind="pgd", steps=7, random_start=False), 7),
    (AttackSpec(name="mifgsm", kind="mifgsm", steps=5), 5),
    (AttackSpec(name="mifgsm_forgetful", kind="mifgsm", steps=6, decay=0.0), 6),
]
# Attacks that stop early or take more passes for some images than for others.
OTHERS = [
    AttackSpec(name="cw", kind="cw", c=1.0, steps=60),
    AttackSpec(name="deepfool", kind="deepfool", steps=20),
    AttackSpec(name="autoattack_torchattacks", kind="autoattack_torchattacks"),
    AttackSpec(name="autoattack_standard", kind="autoattack_standard"),
    AttackSpec(name="apgd_ce", kind="apgd_ce", steps=10),
    AttackSpec(name="apgd_dlr_targeted", kind="apgd_dlr_targeted", steps=10),
    AttackSpec(name="fab_targeted", kind="fab_targeted", steps=10),
    AttackSpec(name="square", kind="square", queries=60),
    AttackSpec(name="transfer", kind="transfer", steps=5),
]
SPECS = [row[0] for row in TABLE] + OTHERS
BY_NAME = {spec.name: spec for spec in SPECS}
SIMPLE = [row[0] for row in TABLE]
"""A fixed number of signed gradient steps, whose result on a linear model is known in closed form."""


def _each(specs: list[AttackSpec]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("spec", specs, ids=[spec.name for spec in specs])


every_row = pytest.mark.parametrize(("spec", "passes"), TABLE, ids=[row[0].name for row in TABLE])
every_attack = _each(SPECS)
every_simple = _each(SIMPLE)
every_linf = _each([spec for spec in SPECS if ATTACKS[spec.kind].norm == "linf"])
every_random_capable = _each([spec for spec in SPECS if not ATTACKS[spec.kind].deterministic_only])
every_white_box = _each([spec for spec in SPECS if "gradient" in ATTACKS[spec.kind].reads])


def attack(spec: AttackSpec, model: nn.Module, x: Tensor, y: Tensor, **changes) -> Tensor:
    """`run_attack` with seed 1 and the four classes of the small models; what transfers, from itself."""
    surrogate = model if spec.kind == "transfer" else None
    arguments = {"seed": 1, "num_classes": CLASSES, "surrogate": surrogate} | changes
    return run_attack(spec, model, x, y, **arguments)
