"""FAB (Croce & Hein 2020b, arXiv 1907.02044) over torchattacks, towards one other class at a time."""

import torch
from torch import Tensor, nn

from nenni_core.attacks.dropping import DroppingSearch
from nenni_core.attacks.setting import Perturb, Setting
from nenni_core.attacks.spec import AttackSpec


def fab_targeted(model: nn.Module, spec: AttackSpec, setting: Setting) -> Perturb:
    """The nearest image across the linearised boundary to the other class of rank `spec.target`.

    It looks for small perturbations; for a deterministic model the first one within eps ends the search.
    """
    from torchattacks import FAB

    search = DroppingSearch(model, spec.eps)
    attack = FAB(
        model if setting.random else search,
        eps=spec.eps,
        steps=spec.steps,
        seed=setting.seed,
        multi_targeted=True,
        n_classes=setting.num_classes,
    )
    attack.target_class = spec.target + 1  # counted from the label itself

    def perturb(x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            if not setting.random:
                return search.fool(attack.attack_single_run_targeted, x, y)
            nearest = attack.attack_single_run_targeted(x, y)
            near = (nearest - x).abs().flatten(1).amax(dim=1) <= spec.eps
            return torch.where(near[:, None, None, None], nearest, x)

    return perturb
