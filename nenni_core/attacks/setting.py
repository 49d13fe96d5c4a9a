"""What an attack is told beside its knobs."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

Perturb = Callable[[Tensor, Tensor], Tensor]
"""(images in [0, 1], labels) to adversarial images of the same shape."""

BALL_TOLERANCE = 1e-6
"""How far float32 rounding may carry a pixel out of the eps ball."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The circumstances of one attack on one batch."""

    num_classes: int
    seed: int
    """For libraries that seed the global generators themselves."""
    random: bool = False
    """Whether the model is random. What fools the draw that an attack sees need not fool the next one, so
    that it goes on with an image that it has fooled."""
    draws: int = 1
    """Noise draws to average over: `AttackSpec.eot_samples` for a random model, 1 for any other."""
    surrogate: nn.Module | None = None
    """Another network with the same classes, for attacks that transfer."""
