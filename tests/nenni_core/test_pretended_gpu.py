"""The code on a GPU that PyTorch pretends to have: tensors know their device and their shape, and no values.

What mixes devices is an error there, and so is every look of the host at a value: a GPU makes it wait.
"""

from importlib import import_module

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from training_problem import net, recipe

from nenni_core import moments, randomness
from nenni_core.defenses import DEFENSES, Defense, make_defense
from nenni_core.distill_checkpoint import Done, Kept
from nenni_core.inject import inject, injected_layers, set_injection
from nenni_core.injection import Injection
from nenni_core.layers import NoisyLayer
from nenni_core.models import build_model
from nenni_core.moments import Moments
from nenni_core.progress import silent
from nenni_core.training import Recipe
from nenni_core.training.augmentation import augment
from nenni_core.training.loop import lay_out_channels_last, training_step

GPU = "meta"  # what PyTorch calls a device without values; it has no autograd for a GPU that is not there

RULES = {
    "ratio": {"ratio": 0.9},
    "pattern": {"pattern": "7:8"},
    "threshold": {"ratio": 0.9, "selection": "threshold"},
    "random": {"ratio": 0.9, "target": "random"},
}


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeTensorMode:
    """A context in which there is the pretended GPU, without autocast, and with the CPU's generators."""
    on_cpu = randomness.make_generator
    monkeypatch.setattr(randomness, "make_generator", lambda seed, *names, device="cpu": on_cpu(seed, *names))
    off = torch.autocast("cpu", enabled=False)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: off)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)
    monkeypatch.setattr(moments, "_has_float64", lambda device: True)
    # a pretended tensor has no place in memory, and whether a threshold is one has been looked at
    monkeypatch.setattr(Tensor, "data_ptr", lambda self: id(self))
    monkeypatch.setattr(NoisyLayer, "_is_calibrated", lambda self: True)
    return FakeTensorMode()


def moved(tensor: Tensor) -> Tensor:
    """As large and as laid out, on the pretended GPU."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=GPU)


def on_gpu(gpu: FakeTensorMode, model: nn.Module) -> nn.Module:
    """The model with its parameters and buffers there."""
    lay_out_channels_last(model)
    with gpu:
        for module in model.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    module._parameters[name] = nn.Parameter(moved(parameter), parameter.requires_grad)
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = moved(buffer)
    return model


def images_of(size: int, count: int = 128) -> Tensor:
    """Batches in [0, 1]."""
    return torch.empty(count, 3, size, size, device=GPU)


def one_step(model: nn.Module, defense: Defense, settings: Recipe, size: int, classes: int) -> Tensor:
    """A training step as the loop does it, on 128 stored images."""
    images = torch.empty(500, 3, size, size, dtype=torch.uint8, device=GPU)
    labels = torch.empty(500, dtype=torch.int64, device=GPU)
    generator = randomness.make_generator(0, "attack")
    index = torch.randperm(500, generator=generator, device=GPU)[:128]
    x = augment(images, index, padding=settings.crop_padding, flip=True, generator=generator)
    assert x.is_contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(defense.parameter_groups(model), 0.1, 0.9)
    loss, logits = training_step(
        model.train(), optimizer, x, labels[index], recipe=settings, generator=generator, defense=defense
    )
    assert logits.shape == (128, classes)
    assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}
    return loss


@pytest.mark.parametrize("objective", ["adversarial", "clean"])
@pytest.mark.parametrize("rule", ["dense", *RULES])
def test_a_step_stays_on_the_gpu(gpu: FakeTensorMode, rule: str, objective: str) -> None:
    model = net()
    if rule != "dense":
        model = inject(model, Injection(ratio=0.9, seed=3))
        set_injection(model, **RULES[rule], gradient="straight_through")
    on_gpu(gpu, model)
    with gpu:
        assert one_step(model, make_defense(objective), recipe(), 10, 4).device.type == GPU


@pytest.mark.parametrize("kind", sorted(name for name in DEFENSES if not DEFENSES[name].starts_trained))
def test_a_step_of_every_defence_stays_on_the_gpu(gpu: FakeTensorMode, kind: str) -> None:
    defense = make_defense(kind)
    model = on_gpu(gpu, defense.wrap(nn.Sequential(net()), 0, (3, 10, 10)))
    with gpu:
        assert one_step(model, defense, recipe(), 10, 4).device.type == GPU


@pytest.mark.slow
def test_a_step_of_the_papers_network_stays_on_the_gpu(gpu: FakeTensorMode) -> None:
    model = inject(build_model("resnet18", num_classes=10, image_size=32), Injection(ratio=0.9, seed=3))
    set_injection(model, ratio=0.9, gradient="straight_through")
    on_gpu(gpu, model)
    with gpu:
        loss = one_step(model, make_defense("adversarial"), Recipe(epochs=1, steps=1), 32, 10)
        assert loss.device.type == GPU


def test_a_distillation_measures_on_the_gpu(gpu: FakeTensorMode) -> None:
    """Nothing waits for the sums before the last batch is in."""
    model = inject(net(), Injection(ratio=0.9, seed=3)).eval()
    on_gpu(gpu, model)
    distillation = import_module("nenni_core.distill")  # the package calls the function so
    layers = injected_layers(model)
    with gpu:
        sums = {
            name: [Moments(layer.groups, layer.rank, layer.weight.shape[0])] for name, layer in layers.items()
        }
        data = distillation._Images([images_of(10), images_of(10, 30)])
        kept = Kept(None, model, layers, None)
        done = distillation._measure(model, layers, sums, data, Done(), kept, silent)
    assert done.batches == 2
    for [moment] in sums.values():
        assert moment.count > 0
        assert {total.device.type for total in moment.sums.values()} == {GPU}


def test_a_look_and_a_mixture_are_seen(gpu: FakeTensorMode) -> None:
    with gpu:
        x = images_of(10)
        for look in (
            lambda: x.sum().item(),
            lambda: bool(x.sum() > 0),
            lambda: x[x > 0],
            lambda: x.sum().tolist(),
            lambda: x.cpu().numpy(),
        ):
            with pytest.raises((DataDependentOutputException, DynamicOutputShapeException, RuntimeError)):
                look()
        with pytest.raises(RuntimeError, match="on the same device"):
            x + torch.ones(128, 3, 10, 10)
