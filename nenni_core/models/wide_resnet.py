"""Wide residual networks, Zagoruyko & Komodakis 2016 (arXiv 1605.07146)."""

from jaxtyping import Float
from torch import Tensor, nn

from nenni_core.models.initialize import convolution, linear
from nenni_core.models.normalize import Normalize


class PreactivationBlock(nn.Module):
    """Batch norm and ReLU before each of two 3x3 convolutions.

    Where shapes differ the shortcut is a 1x1 convolution of the first activation, as in the authors'
    code; else it is the block's input itself.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU()
        self.conv1 = convolution(in_channels, out_channels, 3, stride)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.relu2 = nn.ReLU()
        self.conv2 = convolution(out_channels, out_channels, 3)
        differs = stride != 1 or in_channels != out_channels
        self.shortcut = convolution(in_channels, out_channels, 1, stride) if differs else None

    def forward(
        self, x: Float[Tensor, "batch inputs height width"]
    ) -> Float[Tensor, "batch outputs out_height out_width"]:
        active = self.relu1(self.norm1(x))
        out = self.conv2(self.relu2(self.norm2(self.conv1(active))))
        return out + (x if self.shortcut is None else self.shortcut(active))


class WideResNet(nn.Module):
    """Three stages of (depth - 4) / 6 blocks with 16, 32 and 64 times `widths` channels; WRN-`depth`-`width`.

    Takes pixels in [0, 1], gives logits. The weights are empty until `initialize_weights`.

    Args:
        normalize: the first module.
        in_channels: channels of the images.
        num_classes: logits.
        depth: 6 n + 4 for n blocks a stage.
        widths: the widening factor of each stage; WRN-34-10 has 10 three times.
    """

    def __init__(
        self,
        normalize: Normalize,
        *,
        in_channels: int,
        num_classes: int,
        depth: int,
        widths: tuple[int, int, int],
    ) -> None:
        super().__init__()
        assert depth > 4, depth
        assert depth % 6 == 4, depth
        self.normalize = normalize
        self.conv1 = convolution(in_channels, 16, 3)
        stages: list[nn.Module] = []
        channels = 16
        for base, width, stride in zip((16, 32, 64), widths, (1, 2, 2), strict=True):
            out_channels = base * width
            blocks = [PreactivationBlock(channels, out_channels, stride)]
            blocks += [PreactivationBlock(out_channels, out_channels, 1) for _ in range((depth - 4) // 6 - 1)]
            stages.append(nn.Sequential(*blocks))
            channels = out_channels
        self.stages = nn.Sequential(*stages)
        self.norm = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.classifier = linear(channels, num_classes)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        out = self.stages(self.conv1(self.normalize(x)))
        return self.classifier(self.relu(self.norm(out)).mean(dim=(2, 3)))


def wrn34_10(normalize: Normalize, *, in_channels: int, num_classes: int, image_size: int) -> WideResNet:
    """WRN-34-10, the usual large network of the adversarial-training literature.

    34 convolutions: the stem, thirty 3x3 ones in fifteen blocks and three 1x1 shortcuts;
    6,658,899,968 multiply-accumulates for a 3x32x32 image.
    """
    return WideResNet(
        normalize, in_channels=in_channels, num_classes=num_classes, depth=34, widths=(10, 10, 10)
    )


def wrn34_r(normalize: Normalize, *, in_channels: int, num_classes: int, image_size: int) -> WideResNet:
    """WRN-34-10 with a narrower last stage: widening factors 10, 10 and 4.

    Huang et al. 2021, "Exploring architectural ingredients of adversarially robust deep neural networks".

    The network that its authors publish as WRN-34-R has the same ratio and twice the width in every stage
    (20, 20 and 8).
    """
    return WideResNet(
        normalize, in_channels=in_channels, num_classes=num_classes, depth=34, widths=(10, 10, 4)
    )
