"""The l2 attack of Carlini & Wagner 2017 (arXiv 1608.04644), for one weight c of the misclassification.

Written here because the one of torchattacks 3.5.1 never moves pixels that are exactly 0 or 1, stops all
images of a batch when their summed cost rises, and misjudges the margin where all other logits are negative.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nenni_core.attacks.margin import margin_of

BORDER = 1e-3
"""How far inside (0, 1) the search starts: at 0 and 1 themselves the change of variables has no gradient."""
CHECKS = 10
"""How often in all it is checked whether an image's cost still falls."""
SETTLED = 0.99
"""A cost that keeps more than this share over a tenth of the steps hardly falls. The authors ask for 0.9999;
the same images are found in half the steps. Pixels that are black or white move slowly at first, so that an
image leaves only when its cost falls ever more slowly."""


def carlini_wagner(
    model: nn.Module,
    x: Float[Tensor, "batch channels height width"],
    y: Int[Tensor, "batch"],
    *,
    c: float,
    confidence: float,
    steps: int,
    learning_rate: float,
) -> Float[Tensor, "batch channels height width"]:
    """The nearest image misclassified by `confidence` for each of `x` (in [0, 1]); `x` where none was found.

    Minimises |x' - x|^2 + c max(Z(x')_y - max_{i != y} Z(x')_i, -confidence) by Adam (Kingma & Ba 2015)
    over w, with x' = (tanh(w) + 1) / 2. An image whose cost has not fallen over a tenth of the steps leaves
    the batch, so that its result does not depend on the others.
    """
    with torch.no_grad():
        nearest = torch.where(margin_of(model(x), y) < 0, 0.0, float("inf"))
    best = x.clone()
    rows = torch.arange(len(x), device=x.device)
    w = torch.atanh((2 * x - 1).clamp(2 * BORDER - 1, 1 - 2 * BORDER))
    first, second = torch.zeros_like(w), torch.zeros_like(w)
    before, largest_fall = x.new_full((len(x),), float("inf")), x.new_zeros(len(x))
    for step in range(steps):
        w.requires_grad_()
        x_adv = (torch.tanh(w) + 1) / 2
        logits = model(x_adv)
        distance = (x_adv - x[rows]).square().flatten(1).sum(dim=1)
        margin = margin_of(logits, y[rows])
        cost = distance + c * margin.clamp_min(-confidence)
        (gradient,) = torch.autograd.grad(cost.sum(), w)
        with torch.no_grad():
            found = (margin < 0) & (margin <= -confidence) & (distance < nearest[rows])
            best[rows[found]] = x_adv.detach()[found]
            nearest[rows[found]] = distance.detach()[found]
            w = w.detach()
            first.lerp_(gradient, 0.1)
            second.lerp_(gradient.square(), 0.001)
            unbiased = first / (1 - 0.9 ** (step + 1))
            spread = (second / (1 - 0.999 ** (step + 1))).sqrt_().add_(1e-8)
            w = w - learning_rate * unbiased / spread
            if step % max(steps // CHECKS, 1) == 0:
                now = cost.detach()
                fall = torch.where(before.isfinite(), before - now, 0)
                settled = (now > SETTLED * before) & ((fall <= 0) | (fall < largest_fall))
                before, largest_fall = now[~settled], torch.maximum(largest_fall, fall)[~settled]
                rows, w, first, second = rows[~settled], w[~settled], first[~settled], second[~settled]
                if len(rows) == 0:
                    break
    return best
