"""Residual networks for small images: ResNet-18 in the CIFAR form, and one small enough for a CPU.

He et al. 2016a, "Deep Residual Learning for Image Recognition" (arXiv 1512.03385). The CIFAR form has a
3x3 stem of stride 1 instead of the 7x7 one of stride 2 with its max pooling, as is usual for ResNet-18
on 32x32 images.
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from nenni_core.models.initialize import convolution, linear
from nenni_core.models.normalize import Normalize

SMALLEST_MAP = 4
"""`small_resnet` does not shrink maps of less than twice this size: 8x8 digits end in 4x4 maps."""


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm and a shortcut, which is a 1x1 convolution where shapes differ."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = convolution(in_channels, out_channels, 3, stride)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.relu1 = nn.ReLU()
        self.conv2 = convolution(out_channels, out_channels, 3)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                convolution(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels)
            )
        self.relu2 = nn.ReLU()

    def forward(
        self, x: Float[Tensor, "batch inputs height width"]
    ) -> Float[Tensor, "batch outputs out_height out_width"]:
        out = self.relu1(self.norm1(self.conv1(x)))
        return self.relu2(self.norm2(self.conv2(out)) + self.shortcut(x))


class ResNet(nn.Module):
    """Normalisation, a 3x3 stem, stages of `BasicBlock`s, global average pooling and a linear classifier.

    Takes pixels in [0, 1], gives logits. The weights are empty until `initialize_weights`.

    Args:
        normalize: the first module.
        in_channels: channels of the images.
        num_classes: logits.
        widths: channels of each stage; the stem has as many as the first stage.
        blocks: blocks of each stage.
        strides: of the stem, then of the first block of each stage.
    """

    def __init__(
        self,
        normalize: Normalize,
        *,
        in_channels: int,
        num_classes: int,
        widths: Sequence[int],
        blocks: Sequence[int],
        strides: Sequence[int],
    ) -> None:
        super().__init__()
        assert len(widths) == len(blocks) == len(strides) - 1
        self.normalize = normalize
        self.conv1 = convolution(in_channels, widths[0], 3, strides[0])
        self.norm1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU()
        stages: list[nn.Module] = []
        channels = widths[0]
        for width, count, stride in zip(widths, blocks, strides[1:], strict=True):
            first = BasicBlock(channels, width, stride)
            stages.append(nn.Sequential(first, *(BasicBlock(width, width, 1) for _ in range(count - 1))))
            channels = width
        self.stages = nn.Sequential(*stages)
        self.classifier = linear(channels, num_classes)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        out = self.relu(self.norm1(self.conv1(self.normalize(x))))
        return self.classifier(self.stages(out).mean(dim=(2, 3)))


def resnet18(normalize: Normalize, *, in_channels: int, num_classes: int, image_size: int) -> ResNet:
    """ResNet-18: stages of 64, 128, 256 and 512 channels, two blocks each.

    20 convolutions, three 1x1 shortcuts among them: 555,417,600 multiply-accumulates for a 3x32x32 image.
    """
    return ResNet(
        normalize,
        in_channels=in_channels,
        num_classes=num_classes,
        widths=(64, 128, 256, 512),
        blocks=(2, 2, 2, 2),
        strides=(1, 1, 2, 2, 2),
    )


def small_strides(image_size: int, stages: int) -> tuple[int, ...]:
    """Strides of `small_resnet`: stem and stages halve the map unless that leaves less than SMALLEST_MAP.

    The first stage never halves, the stem only images of 32 pixels or more.

    >>> small_strides(32, stages=3), small_strides(8, stages=3)
    ((2, 1, 2, 2), (1, 1, 2, 1))
    """
    stem = 2 if image_size >= 8 * SMALLEST_MAP else 1
    strides, size = [stem, 1], -(-image_size // stem)
    for _ in range(stages - 1):
        stride = 2 if size >= 2 * SMALLEST_MAP else 1
        strides.append(stride)
        size = -(-size // stride)
    return tuple(strides)


def small_resnet(normalize: Normalize, *, in_channels: int, num_classes: int, image_size: int) -> ResNet:
    """A ResNet for runs on a CPU: stages of 32, 64 and 128 channels, one block each; 9 convolutions.

    Multiply-accumulates: 12.3 M for a 3x32x32 or 3x16x16 image, 5.8 M for an 8x8 digit. The
    halving stem makes 32x32 images cheap; `small_strides` keeps smaller ones from shrinking away.
    """
    return _small(normalize, in_channels, num_classes, image_size, (32, 64, 128))


def small_resnet_r(normalize: Normalize, *, in_channels: int, num_classes: int, image_size: int) -> ResNet:
    """`small_resnet` with a last stage 4/10 as wide, as WRN-34-R is to WRN-34-10 (Huang et al. 2021)."""
    return _small(normalize, in_channels, num_classes, image_size, (32, 64, 51))


def _small(
    normalize: Normalize, in_channels: int, num_classes: int, image_size: int, widths: tuple[int, ...]
) -> ResNet:
    return ResNet(
        normalize,
        in_channels=in_channels,
        num_classes=num_classes,
        widths=widths,
        blocks=(1,) * len(widths),
        strides=small_strides(image_size, len(widths)),
    )
