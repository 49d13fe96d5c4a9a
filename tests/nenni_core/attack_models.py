"""Small models and images for the tests of attacks and of the evaluation; all seeded, none trained."""

import torch
from torch import Tensor, nn

from nenni_core.randomness import NoiseStream, make_generator

CLASSES = 4


def seeded(model: nn.Module, seed: int = 0, scale: float = 1.0) -> nn.Module:
    """`model` with normal weights of standard deviation scale / sqrt(inputs), and small biases.

    The weights of an output sum to 0: an equal shift of all inputs, as every image has, then decides nothing.
    """
    generator = make_generator(seed, "weights")
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                weight = torch.randn(module.weight.shape, generator=generator).flatten(1)
                weight = (weight - weight.mean(1, keepdim=True)) * scale / weight.shape[1] ** 0.5
                module.weight.copy_(weight.view_as(module.weight))
                module.bias.copy_(0.1 * torch.randn(module.bias.shape, generator=generator))
    return model


def conv_net(seed: int = 0, channels: int = 3, scale: float = 2.0) -> nn.Sequential:
    """Two convolutions with batch norm and a linear layer on 6 x 6 images, in training mode."""
    net = nn.Sequential(
        nn.Conv2d(channels, 6, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(6, 6, 3, stride=2, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6 * 9, CLASSES),
    )
    seeded(net, seed, scale)
    return net


def linear_model(seed: int = 0, classes: int = 2, scale: float = 5.0) -> nn.Sequential:
    """logits = W x + b on 3 x 4 x 4 images."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, classes))
    seeded(net, seed, scale)
    return net


class NoisyInput(nn.Module):
    """Adds normal noise to the image, one draw for the batch, as a randomised defence does."""

    def __init__(self, net: nn.Module, sigma: float = 0.5, seed: int = 0) -> None:
        super().__init__()
        self.net = net
        self.sigma = sigma
        self.noise_stream = NoiseStream(seed, "inference")
        self.draws: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        noise = self.sigma * self.noise_stream.normal(self, x, x.shape[1:])
        self.draws.append(noise)
        return self.net(x + noise)


def byte_images(count: int, size: int = 6, channels: int = 3, seed: int = 0) -> Tensor:
    """uint8 images with some pixels that are exactly 0 or 255."""
    shape = (count, channels, size, size)
    values = torch.randint(-40, 296, shape, generator=make_generator(seed, "images"))
    return values.clamp(0, 255).to(torch.uint8)


def float_images(count: int, size: int = 6, channels: int = 3, seed: int = 0) -> Tensor:
    """`byte_images` as pixels in [0, 1]."""
    return byte_images(count, size, channels, seed).float() / 255


def random_labels(count: int, classes: int = CLASSES, seed: int = 0) -> Tensor:
    """Labels drawn uniformly."""
    return torch.randint(classes, (count,), generator=make_generator(seed, "labels"))


def mostly_right_labels(model: nn.Module, images: Tensor, seed: int = 0) -> Tensor:
    """The labels that `model` gives to uint8 `images`, every fifth one replaced by a wrong one."""
    training = model.training
    with torch.no_grad():
        labels = model.eval()(images.float() / 255).argmax(1)
    model.train(training)
    labels[::5] = (labels[::5] + 1) % CLASSES
    return labels
