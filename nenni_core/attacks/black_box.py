"""Attacks that ask the model for nothing but its logits."""

from torch import Tensor, nn

from nenni_core.attacks.margin import mean_margin
from nenni_core.attacks.setting import Perturb, Setting
from nenni_core.attacks.spec import AttackSpec
from nenni_core.errors import InputError


def square(model: nn.Module, spec: AttackSpec, setting: Setting) -> Perturb:
    """Random search with squares (Andriushchenko et al. 2020, arXiv 1912.00049), without gradients.

    For a random model each query is the mean margin over the draws, and the image with the lowest one is the
    result: the library would look at it once more, and return the clean image if it were right that time.
    """
    from torchattacks import Square

    class AveragedSquare(Square):
        def margin_and_loss(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            margin = mean_margin(model, x, y, setting.draws)
            return margin, margin

    attack = AveragedSquare(model, eps=spec.eps, n_queries=spec.queries, seed=setting.seed)
    if not setting.random:
        return attack

    def lowest(x: Tensor, y: Tensor) -> Tensor:
        attack.init_hyperparam(x)
        return attack.attack_single_run(x, y)[1]

    return lowest


def transfer(model: nn.Module, spec: AttackSpec, setting: Setting) -> Perturb:
    """PGD on another network, the surrogate: what fools it often fools this one (Papernot et al. 2017)."""
    from torchattacks import PGD

    if setting.surrogate is None:
        raise InputError(f"attack {spec.name} is made on another network: name one as the surrogate")
    return PGD(
        setting.surrogate,
        eps=spec.eps,
        alpha=spec.step_size,
        steps=spec.steps,
        random_start=spec.random_start,
    )
