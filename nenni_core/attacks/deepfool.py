"""DeepFool in l2 (Moosavi-Dezfooli et al. 2016, arXiv 1511.04599, algorithm 2).

Written here because the one of torchattacks 3.5.1 goes through a batch image by image, and clips after each
step without remembering what it wanted: an image with black and white pixels then often stays where it is.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

BEYOND = 1e-4
"""How far past the linearised boundary a step aims, in the l2 distance, as in the authors' code."""


def deepfool(
    model: nn.Module,
    x: Float[Tensor, "batch channels height width"],
    y: Int[Tensor, "batch"],
    *,
    num_classes: int,
    steps: int,
    overshoot: float,
) -> Float[Tensor, "batch channels height width"]:
    """Images just across the boundary of another class, clipped to [0, 1]; `x` where already misclassified.

    Each step goes to the nearest boundary of the logits as they are linearised at the present point; the sum
    of all steps, longer by the share `overshoot`, is what is added to `x`. An image leaves the batch when it
    is misclassified, or where no logit has a gradient.
    """
    x_adv, moved = x.clone(), torch.zeros_like(x)
    rows = torch.arange(len(x), device=x.device)
    for _ in range(steps):
        point = x_adv[rows].requires_grad_()
        logits = model(point)
        label = y[rows]
        standing = logits.argmax(dim=1) == label
        if not standing.any():
            break
        slopes = [
            torch.autograd.grad(logits[:, k].sum(), point, retain_graph=k + 1 < num_classes)[0]
            for k in range(num_classes)
        ]
        with torch.no_grad():
            nearest, step = _nearest_boundary(logits.detach(), torch.stack(slopes, dim=1), label)
            standing &= nearest.isfinite()
            rows = rows[standing]
            moved[rows] += step[standing]
            x_adv[rows] = (x[rows] + (1 + overshoot) * moved[rows]).clamp(0, 1)
    return x_adv


def _nearest_boundary(
    logits: Float[Tensor, "batch classes"],
    slopes: Float[Tensor, "batch classes channels height width"],
    label: Int[Tensor, "batch"],
) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch channels height width"]]:
    """The distance to the nearest linearised boundary, infinite where there is none, and the step there."""
    each = torch.arange(len(logits), device=logits.device)
    differences = slopes - slopes[each, label][:, None]
    norms = differences.flatten(2).norm(dim=2)
    gaps = (logits - logits[each, label][:, None]).abs()
    distances = torch.where(norms > 0, gaps / norms, torch.inf)  # also of the label itself
    nearest, towards = distances.min(dim=1)
    direction = differences[each, towards] / norms[each, towards][:, None, None, None]
    return nearest, (nearest + BEYOND)[:, None, None, None] * direction
