"""Several passes of a random network as one model."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nenni_core.errors import InputError, require
from nenni_core.randomness import noise_streams


class Ensemble(nn.Module):
    """The mean prediction of `passes` forward passes of a random network (Liu et al. 2018, section 3.3).

    Maps [0, 1] pixels to the logarithm of the mean of the passes' class probabilities: logits of one model,
    so that attacks differentiate the whole ensemble. Its randomness is that of `model`: while the noise is
    held, each pass keeps a draw of its own. Raises `InputError` for a network without noise and for fewer
    than one pass.
    """

    def __init__(self, model: nn.Module, passes: int) -> None:
        super().__init__()
        require("passes", passes, passes >= 1, "at least 1")
        if not noise_streams(model):
            raise InputError(
                f"an ensemble of {passes} passes of {type(model).__name__} would repeat one prediction; "
                "expected a random network"
            )
        self.model, self.passes = model, passes
        self.train(model.training)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        streams = noise_streams(self.model)
        members = []
        try:
            for member in range(self.passes):
                for stream in streams:
                    stream.member = member
                members.append(F.log_softmax(self.model(x).float(), dim=1))
        finally:
            for stream in streams:
                stream.member = 0
        return torch.stack(members).logsumexp(dim=0) - math.log(self.passes)
