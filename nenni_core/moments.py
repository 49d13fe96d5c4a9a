"""Second moments of a layer's projected inputs and outputs: all that least squares needs to know."""

import torch
from jaxtyping import Float
from torch import Tensor

from nenni_core.layers import NoisyLayer

_ROUNDING = 1e-6  # products of float32: a smaller share of a second moment is no variance


class Moments:
    """Sums over positions of y, z, y y^T, z y^T and z^2, in float64, per group of a layer.

    With them the mean squared error of *any* z_approx = W~ y + b~ on the data is a closed form, so that
    neither the optimum nor the quality of a rounded solution needs a second pass.
    """

    def __init__(self, groups: int, rank: int, outputs: int) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(*shape, dtype=torch.float64)

        self.count = 0
        self.y, self.z = zeros(groups, rank), zeros(groups, outputs)
        self.yy, self.zy, self.zz = (
            zeros(groups, rank, rank),
            zeros(groups, outputs, rank),
            zeros(groups, outputs),
        )

    def add(
        self, y: Float[Tensor, "groups positions rank"], z: Float[Tensor, "groups positions outputs"]
    ) -> None:
        """Count a batch in; products are formed in float32 and summed in float64."""
        y, z = y.float(), z.float()
        self.count += y.shape[1]
        for total, part in (
            (self.y, y.sum(1)),
            (self.z, z.sum(1)),
            (self.yy, y.transpose(1, 2) @ y),
            (self.zy, z.transpose(1, 2) @ y),
            (self.zz, z.square().sum(1)),
        ):
            total += part.cpu().double()

    def _centred(self) -> tuple[Tensor, Tensor, Tensor]:
        """Covariances of (y, y) and (z, y), and the variances of z."""
        y, z = self.y / self.count, self.z / self.count
        return (
            self.yy / self.count - y.unsqueeze(2) * y.unsqueeze(1),
            self.zy / self.count - z.unsqueeze(2) * y.unsqueeze(1),
            self.zz / self.count - z.square(),
        )

    def solve(self, ridge: float) -> tuple[Float[Tensor, "outputs rank"], Float[Tensor, " outputs"]]:
        """The W~ and b~ of least squared error: W~ = cov(z, y) (cov(y, y) + ridge * scale * I)^-1.

        This is paper equation 1 without rounding, whose optimum is closed since it is linear in W~, b~.
        `scale` is the mean variance of y, so that `ridge` has no unit.
        """
        yy, zy, _ = self._centred()
        scale = yy.diagonal(dim1=1, dim2=2).mean(dim=1)
        dead = scale <= _ROUNDING * (self.yy.diagonal(dim1=1, dim2=2).mean(dim=1) / self.count)
        damping = torch.where(dead, torch.ones_like(scale), ridge * scale)  # constants explain nothing
        damped = yy + damping[:, None, None] * torch.eye(yy.shape[1], dtype=torch.float64)
        weight = torch.linalg.solve(damped, zy, left=False)
        bias = (self.z - (weight @ self.y.unsqueeze(2)).squeeze(2)) / self.count
        return weight.flatten(0, 1).float(), bias.flatten().float()

    def normalised_error(
        self, weight: Float[Tensor, "outputs rank"], bias: Float[Tensor, " outputs"]
    ) -> float:
        """||z - z_approx||^2 / ||z - mean||^2 of the approximation (weight, bias), over all positions.

        For a layer whose output is constant, relative to ||z||^2.
        """
        yy, zy, zz = self._centred()
        groups = yy.shape[0]
        w = weight.detach().cpu().double().reshape(groups, -1, yy.shape[1])
        b = bias.detach().cpu().double().reshape(groups, -1)
        offset = self.z / self.count - (w @ (self.y / self.count).unsqueeze(2)).squeeze(2) - b
        error = zz - 2 * (w * zy).sum(2) + ((w @ yy) * w).sum(2) + offset.square()
        variance, power = zz.sum(), self.zz.sum() / self.count
        reference = variance if variance > _ROUNDING * power else power
        return float(error.sum().clamp_min(0) / reference) if reference > 0 else float(error.sum() > 0)


def grouped_positions(layer: NoisyLayer, values: Tensor) -> Float[Tensor, "groups positions features"]:
    """A layer's channels split by group, all its positions in one axis."""
    flat = values.detach().movedim(layer.channel_axis, -1).flatten(0, -2)
    return flat.reshape(len(flat), layer.groups, -1).transpose(0, 1)
