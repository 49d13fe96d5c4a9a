"""How far a classification is from changing."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


def margin_of(logits: Float[Tensor, "batch classes"], y: Int[Tensor, "batch"]) -> Float[Tensor, "batch"]:
    """The label's logit minus the largest other one: negative where the image is misclassified."""
    of_label = logits.gather(1, y[:, None]).squeeze(1)
    others = logits.scatter(1, y[:, None], float("-inf"))
    return of_label - others.amax(dim=1)


def mean_margin(model: nn.Module, x: Tensor, y: Tensor, draws: int) -> Float[Tensor, "batch"]:
    """`margin_of` averaged over `draws` forward passes, which differ for a random model."""
    return torch.stack([margin_of(model(x), y) for _ in range(draws)]).mean(dim=0)
