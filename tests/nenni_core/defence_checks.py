"""What every defence with noise is held to, and the small models that show its noise as it is."""

from contextlib import ExitStack
from copy import deepcopy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import kstest
from torch import Tensor, nn
from training_problem import SIZE, net, problem, recipe, same

from nenni_core import Injection, inject
from nenni_core.defenses import Defense, StepContext
from nenni_core.randomness import held_noise, make_generator, noise_streams, set_noise
from nenni_core.training import TrainingResult, train
from nenni_core.training.loop import lay_out_channels_last

SHAPE = (3, SIZE, SIZE)


def is_normal(noise: Tensor, sigma: float) -> bool:
    """Whether `noise` has mean 0 and standard deviation `sigma`, at a level of one in a thousand."""
    return kstest(noise.detach().double().flatten().numpy(), "norm", args=(0.0, sigma)).pvalue > 1e-3


def assert_normal(noise: Tensor, sigma: float) -> None:
    """The noise has this standard deviation and none that is 10% off."""
    assert is_normal(noise, sigma)
    assert not is_normal(noise, 1.1 * sigma)
    assert not is_normal(noise, sigma / 1.1)


def uniform(*shape: int, seed: int = 0) -> Tensor:
    """Numbers in [0, 1)."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def identity_convolution(channels: int = 3) -> nn.Conv2d:
    """A 1x1 convolution that gives its input."""
    layer = nn.utils.skip_init(nn.Conv2d, channels, channels, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(channels)[..., None, None])
    return layer


def wrapped(defense: Defense, *, seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> nn.Module:
    """The small network as the defence builds it."""
    return defense.wrap(net(), seed, shape)


def run(model: nn.Module, defense: Defense, *, directory: Path | None = None, stop: int = 0,
        **changes: object) -> TrainingResult:  # fmt: skip
    """Train `model`; with `stop`, fail with `KeyboardInterrupt` after that many epochs."""

    def watch(record: object) -> None:
        seen.append(record)
        if len(seen) == stop:
            raise KeyboardInterrupt

    seen: list[object] = []
    return train(model, *problem(), recipe(**changes), seed=3, checkpoint_dir=directory, defense=defense,
                 on_epoch=watch)  # fmt: skip


def assert_restarts_to_the_bit(defense: Defense, directory: Path) -> None:
    """A training that is interrupted and continued is one that was not; equal arguments give equal bits."""
    expected = run(wrapped(defense), defense)
    with pytest.raises(KeyboardInterrupt):
        run(wrapped(defense), defense, directory=directory, stop=2)
    resumed = run(wrapped(defense), defense, directory=directory)
    assert same(resumed.last, expected.last)
    assert same(resumed.best, expected.best)
    assert resumed.history == expected.history


def assert_draws_as_agreed(model: nn.Module) -> None:
    """Fresh in each pass and in both modes, equal for equal streams, held while held, for any batch size.

    `model` has no layer that knows its mode or its batch otherwise.
    """
    assert len(noise_streams(model)) == 1
    x = uniform(6, *SHAPE)
    for training in (True, False):
        model.train(training)
        assert not torch.equal(model(x), model(x))
    outputs = []
    for seed in (5, 5, 6):
        set_noise(model, "test", seed)
        outputs.append([model(x), model(x)])
    assert torch.equal(torch.stack(outputs[0]), torch.stack(outputs[1]))
    assert not torch.equal(outputs[0][0], outputs[2][0])
    with held_noise(model):
        first = model(x)
        assert torch.equal(model(x), first)
        torch.testing.assert_close(model(x[2:4]), first[2:4])  # images have left the batch
        copy = deepcopy(model)
    assert not torch.equal(model(x), first)
    assert copy(x[:0]).shape == (0, first.shape[1])


def assert_injection_keeps_the_noise(defense: Defense) -> None:
    """`inject` works on the wrapped network, and what it has at density 1 is that network's output."""
    model = wrapped(defense).eval()
    noisy = inject(model, Injection(ratio=0.0))
    x = uniform(4, *SHAPE)
    for network in (model, noisy):
        set_noise(network, "test", 1)
    assert torch.equal(model(x), noisy(x))
    assert not torch.equal(noisy(x), noisy(x))
    half = inject(model, Injection(ratio=0.5))
    assert not torch.equal(half(x), half(x))
    run(half, defense, epochs=1)


def assert_runs_in(model: nn.Module, dtype: torch.dtype) -> None:
    """Under autocast, where convolutions compute in `dtype`, and in channels-last memory, which stays."""
    lay_out_channels_last(model)
    x = uniform(4, *SHAPE).contiguous(memory_format=torch.channels_last)
    kinds: set[torch.dtype] = set()

    def look(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert output.dim() != 4 or output.is_contiguous(memory_format=torch.channels_last), module
        if isinstance(module, nn.Conv2d):
            kinds.add(output.dtype)

    for module in model.modules():
        module.register_forward_hook(look)
    with torch.no_grad(), torch.autocast("cpu", dtype=dtype):
        assert model(x).isfinite().all()
    assert kinds == {dtype}


def context(**changes: object) -> StepContext:
    """The middle of a training of ten epochs."""
    fields: dict = {
        "eps": 8 / 255,
        "step_size": 2 / 255,
        "steps": 2,
        "generator": make_generator(0, "attack"),
        "position": 5.0,
        "epochs": 10,
        "after_step": ExitStack(),
    }
    return StepContext(**(fields | changes))


def linear_model(seed: int = 2) -> nn.Sequential:
    """Flatten and one linear layer, four classes."""
    layer = nn.utils.skip_init(nn.Linear, 3 * SIZE * SIZE, 4)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) / 30)
        layer.bias.copy_(torch.randn(4, generator=generator))
    return nn.Sequential(nn.Flatten(), layer)


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Mean of -log softmax, written out."""
    return -(logits.softmax(1) * F.one_hot(y, logits.shape[1])).sum(1).log().mean()
