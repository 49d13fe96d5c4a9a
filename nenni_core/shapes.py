"""Shapes of the layers that noise is injected into, read off a forward pass: what a simulator is told."""

from collections import Counter
from dataclasses import dataclass
from math import prod

from torch import Tensor, nn

from nenni_core.errors import InputError
from nenni_core.layers import NoisyLayer
from nenni_core.projection import projection_rank
from nenni_core.tracing import trace


@dataclass(frozen=True, kw_only=True)
class LayerShape:
    """One use of a convolution, for one image.

    A linear layer is a 1 x 1 convolution of a column of positions.
    """

    name: str
    """The module's name; with "#2" and so on from its second use in a forward pass on."""
    in_channels: int
    out_channels: int
    kernel_height: int
    kernel_width: int
    in_height: int
    in_width: int
    out_height: int
    out_width: int
    groups: int
    rank: int
    """Rows k of the random projection of one group."""


def layer_shapes(
    model: nn.Module, input_shape: tuple[int, int, int], projection_ratio: float = 0.25
) -> tuple[LayerShape, ...]:
    """The convolutions of `model`, and its injected linear layers, in the order in which they run.

    Args:
        model: plain or injected.
        input_shape: (channels, height, width).
        projection_ratio: rank over inputs for layers of a plain model.

    Raises:
        InputError: there is no such layer.
    """
    found: list[LayerShape] = []
    uses: Counter[str] = Counter()
    names = {module: name for name, module in model.named_modules()}

    def record(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        name = names[module]
        uses[name] += 1
        weight = module.weight
        assert isinstance(weight, Tensor)
        if isinstance(module, nn.Conv2d):
            kernel, groups, channels = module.kernel_size, module.groups, module.in_channels
            before, after = tuple(inputs[0].shape[-2:]), tuple(output.shape[-2:])
        else:
            kernel, groups, channels = (1, 1), 1, weight.shape[1]
            before = after = (prod(output.shape[1:-1]), 1)
        found.append(
            LayerShape(
                name=name if uses[name] == 1 else f"{name}#{uses[name]}",
                in_channels=channels,
                out_channels=weight.shape[0],
                kernel_height=kernel[0],
                kernel_width=kernel[1],
                in_height=before[0],
                in_width=before[1],
                out_height=after[0],
                out_width=after[1],
                groups=groups,
                rank=module.rank
                if isinstance(module, NoisyLayer)
                else projection_rank(weight[0].numel(), projection_ratio),
            )
        )

    trace(model, input_shape, [(m, record) for m in names if isinstance(m, (nn.Conv2d, NoisyLayer))])
    if not found:
        raise InputError(f"{type(model).__name__} has no nn.Conv2d layer to simulate")
    return tuple(found)
