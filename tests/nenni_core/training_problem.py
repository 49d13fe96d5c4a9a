"""A problem that trains in a fraction of a second: four classes, told apart by where the image is bright."""

import torch
from torch import Tensor, nn

from nenni_core.inject import inject
from nenni_core.injection import Injection
from nenni_core.randomness import NoiseStream
from nenni_core.training import Recipe

SIZE, CLASSES = 10, 4


def problem(train: int = 96, validation: int = 40, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images and labels, validation images and labels; uint8, three channels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(train + validation) % CLASSES
    images = torch.randint(0, 90, (train + validation, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8)
    half = SIZE // 2
    for i, label in enumerate(labels.tolist()):
        row, column = divmod(label, 2)
        images[i, :, row * half : (row + 1) * half, column * half : (column + 1) * half] += 120
    return images[:train], labels[:train], images[train:], labels[train:]


class Jitter(nn.Module):
    """Multiplies its input by 1 + 0.1 u with u uniform in [-1, 1) from the model's noise stream."""

    def __init__(self) -> None:
        super().__init__()
        self.noise_stream = NoiseStream(0, "inference")
        self.draws = 0

    def forward(self, x: Tensor) -> Tensor:
        return x * self.noise_stream.draw(self, lambda stream: self.fresh(stream, x))

    def fresh(self, stream: NoiseStream, x: Tensor) -> Tensor:
        self.draws += 1
        return 1 + 0.2 * (torch.rand(x.shape[1:], generator=stream.generator) - 0.5)


def net(*, noisy: bool = False, seed: int = 0) -> nn.Sequential:
    """Two convolutions with batch normalisation; weights from `seed` alone, the global generator unused."""
    with torch.device("meta"):
        layers = [
            nn.Conv2d(3, 8, 3, padding=1),
            nn.Conv2d(8, 8, 3, stride=2, padding=1),
            nn.Linear(32, CLASSES),
        ]
    first, second, last = (layer.to_empty(device="cpu") for layer in layers)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in (first, second, last):
            bound = (3 / layer.weight[0].numel()) ** 0.5
            layer.weight.copy_((torch.rand(layer.weight.shape, generator=generator) * 2 - 1) * bound)
            layer.bias.zero_()
    noise = [Jitter()] if noisy else []
    return nn.Sequential(
        first,
        nn.BatchNorm2d(8),
        nn.ReLU(),
        *noise,
        second,
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        last,
    )


def net_of_kind(kind: str) -> nn.Module:
    """ "plain", "noisy" (`Jitter`), or "bank" (convolutions with injected noise that is drawn anew)."""
    if kind != "bank":
        return net(noisy=kind == "noisy")
    injection = Injection(ratio=0.5, randomize="bank", gradient="straight_through", seed=3)
    return inject(net(), injection)


def recipe(**changes: object) -> Recipe:
    """A few quick epochs of adversarial training; `changes` replace its fields."""
    fields: dict = {"epochs": 3, "batch_size": 32, "steps": 2, "validation_steps": 2, "crop_padding": 1,
                    "flip": False, "learning_rate": 0.05} | changes  # fmt: skip
    return Recipe(**fields)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether two states are equal to the bit (a threshold that was not calibrated is NaN in both)."""
    return a.keys() == b.keys() and all(
        a[name].dtype == b[name].dtype
        and torch.equal(a[name].reshape(-1).view(torch.uint8), b[name].reshape(-1).view(torch.uint8))
        for name in a
    )
