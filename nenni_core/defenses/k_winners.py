"""k-winners-take-all: an activation function that keeps the largest values of a whole map."""

from dataclasses import dataclass
from math import prod
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from nenni_core.bitops import ADDITION
from nenni_core.defenses.adversarial_training import ModifiedNetwork
from nenni_core.defenses.wrapping import replace_modules
from nenni_core.errors import InputError, require
from nenni_core.selection import largest_per_row


class KWinners(nn.Module):
    """Keeps of each sample the share `ratio` of its values that is largest, with their signs; 0 elsewhere.

    Of equal values the one of the lower index wins, in the order of `nenni_core.selection`. The gradient
    passes where a value is kept.
    """

    def __init__(self, ratio: float) -> None:
        super().__init__()
        self.ratio = ratio

    def kept(self, values: int) -> int:
        """How many of `values` are kept: the whole part of ratio * values, at least 1."""
        return max(1, int(self.ratio * values))

    def forward(
        self, x: Float[Tensor, "batch channels *position"]
    ) -> Float[Tensor, "batch channels *position"]:
        """The winners of each sample."""
        last = x.movedim(1, -1)
        scores = last.detach().flatten(1)
        keep = self.kept(scores.shape[1])
        if keep >= scores.shape[1]:
            return x
        if scores.element_size() < 4:
            scores = scores.float()
        winners = largest_per_row(scores, keep).to(x.dtype)  # PyTorch mixes no types quickly on a CPU
        return x * winners.view(last.shape).movedim(-1, 1)

    def own_bitops(self, input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> float:
        """One comparison per value, with a threshold that is known as for injected noise."""
        return prod(output_shape) * ADDITION

    def extra_repr(self) -> str:
        """The ratio, for `print(model)`."""
        return f"ratio={self.ratio}"


@dataclass(frozen=True, kw_only=True)
class KWinnersTakeAll(ModifiedNetwork):
    """`KWinners` instead of the ReLUs of the blocks (Xiao, Zhong and Zheng 2020, arXiv 1905.10510).

    The ReLUs that belong to no block (of the stem, or before the classifier) stay, as in the paper's code for
    CIFAR. As many values are kept in training as in evaluation.

    Departures: of values equal to the smallest that is kept, the paper's code keeps all, here exactly k
    values are kept; the training is that of this project (the paper's has no weight decay, and attacks the
    network in eval mode); the lowering of the ratio in steps, with which the paper reaches ratios that do not
    train from scratch, is left out.
    """

    title: ClassVar[str] = "k-Winners-Take-All (Xiao et al., 2020)"

    ratio: float = 0.1
    """Share of each map's values that is kept, in (0, 1]; at 1 the activation is the identity, not a ReLU."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require("ratio", self.ratio, 0 < self.ratio <= 1, "in (0, 1]")

    def wrap(self, model: nn.Module, seed: int, image_shape: tuple[int, int, int]) -> nn.Module:
        """`model` with `KWinners` for each ReLU that is not its direct child."""
        own = {id(child) for child in model.children()} | {id(model)}
        inside = {id(m) for m in model.modules() if isinstance(m, nn.ReLU)} - own
        if not inside:
            raise InputError(
                f"{type(model).__name__} has no nn.ReLU inside a block; expected blocks as child modules"
            )
        return replace_modules(
            model, lambda _, module: KWinners(self.ratio) if id(module) in inside else None
        )
