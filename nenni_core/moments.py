"""Second moments of a layer's projected inputs and outputs: all that least squares needs to know."""

import torch
from jaxtyping import Float
from torch import Tensor

from nenni_core.layers import NoisyLayer

_ROUNDING = 1e-12  # of float32 values, squared: a smaller share of a second moment is no variance


class Moments:
    """First and second moments over positions of y and z, per group of a layer.

    With them the mean squared error of *any* z_approx = W~ y + b~ on the data is a closed form, so that
    neither the optimum nor the quality of a rounded solution needs a second pass.

    Sums are taken relative to the first batch's means: products of float32 numbers whose mean is large
    against their spread would have no correct digit of the variance. They stay on a GPU, and
    nothing waits for it before they are asked for.
    """

    def __init__(self, groups: int, rank: int, outputs: int) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(*shape, dtype=torch.float64)

        self.count = 0
        self.sums = {
            "origin_y": torch.zeros(groups, rank),
            "origin_z": torch.zeros(groups, outputs),
            "y": zeros(groups, rank),
            "z": zeros(groups, outputs),
            "yy": zeros(groups, rank, rank),
            "zy": zeros(groups, outputs, rank),
            "zz": zeros(groups, outputs),
        }
        """All that it has of the batches so far, beside `count`."""

    def add(
        self, y: Float[Tensor, "groups positions rank"], z: Float[Tensor, "groups positions outputs"]
    ) -> None:
        """Count a batch in; products are formed in float32 and summed in float64."""
        y, z = y.float(), z.float()
        sums = self.sums
        where = y.device if _has_float64(y.device) else torch.device("cpu")
        for name, total in sums.items():
            sums[name] = total.to(where)
        if self.count == 0 and y.shape[1] > 0:
            sums["origin_y"], sums["origin_z"] = y.mean(1).to(where), z.mean(1).to(where)
        self.count += y.shape[1]
        y = y - sums["origin_y"].to(y.device).unsqueeze(1)
        z = z - sums["origin_z"].to(z.device).unsqueeze(1)
        for name, part in (
            ("y", y.sum(1)),
            ("z", z.sum(1)),
            ("yy", y.transpose(1, 2) @ y),
            ("zy", z.transpose(1, 2) @ y),
            ("zz", z.square().sum(1)),
        ):
            sums[name] += part.to(where).double()

    def _mean(self, name: str) -> Tensor:
        """One of the sums, on the CPU in float64, over the number of positions."""
        return self.sums[name].cpu() / self.count

    @property
    def mean_y(self) -> Float[Tensor, "groups rank"]:
        """Means of the projected inputs."""
        return self.sums["origin_y"].cpu().double() + self._mean("y")

    @property
    def mean_z(self) -> Float[Tensor, "groups outputs"]:
        """Means of the outputs."""
        return self.sums["origin_z"].cpu().double() + self._mean("z")

    @property
    def power_y(self) -> Float[Tensor, "groups rank"]:
        """Mean squares of the projected inputs."""
        return self._centred()[0].diagonal(dim1=1, dim2=2) + self.mean_y.square()

    def _centred(self) -> tuple[Tensor, Tensor, Tensor]:
        """Covariances of (y, y) and (z, y), and the variances of z."""
        y, z = self._mean("y"), self._mean("z")
        return (
            self._mean("yy") - y.unsqueeze(2) * y.unsqueeze(1),
            self._mean("zy") - z.unsqueeze(2) * y.unsqueeze(1),
            self._mean("zz") - z.square(),
        )

    def solve(self, ridge: float) -> tuple[Float[Tensor, "outputs rank"], Float[Tensor, " outputs"]]:
        """The W~ and b~ of least squared error: W~ = cov(z, y) (cov(y, y) + ridge * scale * I)^-1.

        This is paper equation 1 without rounding, whose optimum is closed since it is linear in W~, b~.
        `scale` is the mean variance of y, so that `ridge` has no unit.
        """
        yy, zy, _ = self._centred()
        scale = yy.diagonal(dim1=1, dim2=2).mean(dim=1)
        dead = scale <= _ROUNDING * self.power_y.mean(dim=1)
        damping = torch.where(dead, torch.ones_like(scale), ridge * scale)  # constants explain nothing
        damped = yy + damping[:, None, None] * torch.eye(yy.shape[1], dtype=torch.float64)
        weight = torch.linalg.solve(damped, zy, left=False)
        bias = self.mean_z - (weight @ self.mean_y.unsqueeze(2)).squeeze(2)
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
        offset = self.mean_z - (w @ self.mean_y.unsqueeze(2)).squeeze(2) - b
        error = zz - 2 * (w * zy).sum(2) + ((w @ yy) * w).sum(2) + offset.square()
        variance, power = zz.sum(), (zz + self.mean_z.square()).sum()
        reference = variance if variance > _ROUNDING * power else power
        return float(error.sum().clamp_min(0) / reference) if reference > 0 else float(error.sum() > 0)


def _has_float64(device: torch.device) -> bool:
    """Whether sums can stay on `device`; Apple's GPUs, for one, have float32 at most."""
    return device.type in ("cpu", "cuda")


def grouped_positions(layer: NoisyLayer, values: Tensor) -> Float[Tensor, "groups positions features"]:
    """A layer's channels split by group, all its positions in one axis."""
    flat = values.detach().movedim(layer.channel_axis, -1).flatten(0, -2)
    return flat.reshape(len(flat), layer.groups, -1).transpose(0, 1)
