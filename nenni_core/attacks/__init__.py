"""White-box attacks behind one signature: `run_attack(spec, model, x, y, ...) -> x_adv`."""

from nenni_core.attacks.adapter import AttackCost, AttackError, run_attack
from nenni_core.attacks.kinds import ATTACKS, AttackKind, attack_kind
from nenni_core.attacks.spec import AttackSpec, paper_protocol

__all__ = [
    "ATTACKS",
    "AttackCost",
    "AttackError",
    "AttackKind",
    "AttackSpec",
    "attack_kind",
    "paper_protocol",
    "run_attack",
]
