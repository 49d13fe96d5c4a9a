"""Attacks behind one signature: `run_attack(spec, model, x, y, ...) -> x_adv`."""

from nenni_core.attacks.adapter import AttackCost, AttackError, run_attack
from nenni_core.attacks.kinds import (
    ATTACKS,
    AttackKind,
    attack_kind,
    counts_in_worst_case,
    defined_for,
    fields_read,
    settings_of,
)
from nenni_core.attacks.protocols import adaptive_protocol, deepfool_protocol, paper_protocol, pgd_grid
from nenni_core.attacks.setting import Setting
from nenni_core.attacks.spec import AttackSpec

__all__ = [
    "ATTACKS",
    "AttackCost",
    "AttackError",
    "AttackKind",
    "AttackSpec",
    "Setting",
    "adaptive_protocol",
    "attack_kind",
    "counts_in_worst_case",
    "deepfool_protocol",
    "defined_for",
    "fields_read",
    "paper_protocol",
    "pgd_grid",
    "run_attack",
    "settings_of",
]
