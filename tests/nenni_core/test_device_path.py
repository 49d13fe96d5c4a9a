"""The code that a GPU runs, tried on a CPU: no step waits for the device, and its bits are the CPU's.

A CPU tensor's `tolist` and `numpy` are not seen here, but in test_pretended_gpu.py.
"""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from training_problem import net, problem, recipe, same

from nenni_core import layers, selection
from nenni_core.attacks.untouched import full_precision
from nenni_core.defenses import DEFENSES, make_defense
from nenni_core.distill import calibrate
from nenni_core.inject import inject, injected_layers, set_injection
from nenni_core.injection import Injection
from nenni_core.randomness import make_generator
from nenni_core.training import loop, train
from nenni_core.training.augmentation import augment, pixels
from nenni_core.training.loop import training_step

WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "item"}
"""Operations whose result, or its size, the host has to know."""

RULES = {
    "ratio": {"ratio": 0.9},
    "ratio-0.99": {"ratio": 0.99},
    "pattern": {"pattern": "7:8"},
    "threshold": {"ratio": 0.9, "selection": "threshold"},
}


class Calls(TorchDispatchMode):
    """Counts operations by name."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.count[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))

    @property
    def waiting(self) -> dict[str, int]:
        return {name: number for name, number in self.count.items() if name in WAITING}


@pytest.fixture
def gpu_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers take the branches of a GPU: boolean masks, `kthvalue`, nothing compared by value."""
    monkeypatch.setattr(layers, "_has_fast_integers", lambda values: False)
    monkeypatch.setattr(layers, "_values", lambda tensors: [])
    monkeypatch.setattr(loop, "_looks_are_free", lambda device: False)
    monkeypatch.setattr(
        selection,
        "_kth_largest",
        lambda values, k: values.kthvalue(values.shape[1] - k + 1, dim=1, keepdim=True).values,
    )


def network(rule: str) -> nn.Module:
    if rule == "dense":
        return net()
    model = inject(net(), Injection(ratio=0.9, seed=3))
    set_injection(model, **RULES[rule], gradient="straight_through")
    if rule == "threshold":
        calibrate(model, [pixels(problem()[0])])
    model(pixels(problem()[0][:2]))  # what is looked at once has been
    return model


def two_steps(model: nn.Module, objective: str = "adversarial") -> dict[str, Tensor]:
    """The state after two steps in float32."""
    images, labels, *_ = problem()
    settings = recipe()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, 0.9)
    generators = [make_generator(0, name) for name in ("augmentation", "attack")]
    model.train()
    for low in (0, 32):
        index = torch.arange(low, low + 32)
        x = augment(images, index, padding=1, flip=True, generator=generators[0])
        training_step(
            model,
            optimizer,
            x,
            labels[index],
            recipe=settings,
            generator=generators[1],
            defense=make_defense(objective),
        )
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("objective", ["adversarial", "clean"])
@pytest.mark.parametrize("rule", list(RULES))
def test_the_gpus_branches_give_the_cpus_bits(
    rule: str, objective: str, request: pytest.FixtureRequest
) -> None:
    usual = two_steps(network(rule), objective)
    request.getfixturevalue("gpu_code")
    assert same(two_steps(network(rule), objective), usual)


@pytest.mark.usefixtures("gpu_code")
@pytest.mark.parametrize("rule", ["dense", *RULES])
def test_a_step_does_not_wait_for_the_device(rule: str) -> None:
    model = network(rule)
    with Calls() as calls:
        two_steps(model)
    assert calls.count["convolution"] > 0
    assert calls.waiting == {}


@pytest.mark.parametrize("kind", sorted(name for name in DEFENSES if not DEFENSES[name].starts_trained))
def test_no_defence_waits_for_the_device(kind: str) -> None:
    defense = make_defense(kind)
    model = defense.wrap(nn.Sequential(net()), 0, (3, 10, 10))
    images, labels, *_ = problem()
    optimizer = torch.optim.SGD(defense.parameter_groups(model), 0.05)
    model.train()
    with Calls() as calls:
        training_step(
            model,
            optimizer,
            augment(images, torch.arange(32), padding=1, flip=True, generator=make_generator(0, "a")),
            labels[:32],
            recipe=recipe(),
            generator=make_generator(0, "attack"),
            defense=defense,
        )
    assert calls.waiting == {}


@pytest.mark.usefixtures("gpu_code")
def test_an_epoch_waits_a_fixed_number_of_times() -> None:
    """Not once for each batch: with four times the images it waits no more often."""

    def waits(images: int) -> dict[str, int]:
        x, y, held_out, held_out_labels = problem(train=images)
        settings = recipe(epochs=1, batch_size=4)
        with Calls() as calls:
            train(net(), x, y, held_out, held_out_labels, settings, seed=0, checkpoint_dir=None)
        return calls.waiting

    assert waits(96) == waits(384)
    assert waits(96)["_local_scalar_dense"] > 0  # the losses and the accuracies are read in the end


def test_waiting_is_seen() -> None:
    with Calls() as calls:
        assert torch.ones(()).item() == 1
        assert bool(torch.ones(()) > 0)
    assert calls.waiting == {"_local_scalar_dense": 2}


def test_only_the_dense_network_is_compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Compiling without fusing anything changes no bit; checkpoints and weights are those of the model."""
    compiled: list[nn.Module] = []
    eager: Callable[..., Any] = torch.compile

    def recorded(model: nn.Module, **settings: Any) -> Any:
        compiled.append(model)
        return eager(model, backend="eager", **settings)

    monkeypatch.setattr(torch, "compile", recorded)
    data = problem(train=40, validation=24)
    settings = recipe(epochs=2, batch_size=16)
    plain = train(net(), *data, settings, seed=0, checkpoint_dir=None)
    assert compiled == []
    model = net()
    # of training and validation, each by full and last batches: PyTorch stops compiling at so many graphs
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        fused = train(model, *data, settings, seed=0, checkpoint_dir=tmp_path, compiled=True)
    assert compiled == [model]
    assert same(fused.last, plain.last)
    assert fused.history == plain.history
    noisy = network("ratio")
    assert injected_layers(noisy)
    train(noisy, *data, settings, seed=0, checkpoint_dir=None, compiled=True)
    assert compiled == [model]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("rule", ["dense", *RULES])
def test_a_gpu_trains_as_the_cpu_does(rule: str) -> None:
    """The same steps in float32, without crops and attacks: the random streams of the devices differ.

    Without TF32, which PyTorch's convolutions of float32 numbers would otherwise use.
    """

    def steps(device: str) -> dict[str, Tensor]:
        images, labels, *_ = problem()
        model = network(rule).to(device).train()
        optimizer = torch.optim.SGD(model.parameters(), 0.05, 0.9)
        for low in (0, 32):
            x = images[low : low + 32].to(device).float().div(255)
            with full_precision(torch.device(device)):
                training_step(
                    model,
                    optimizer,
                    x,
                    labels[low : low + 32].to(device),
                    recipe=recipe(),
                    generator=make_generator(0, "attack", device=device),
                    defense=make_defense("clean"),
                )
        return {name: tensor.cpu() for name, tensor in model.state_dict().items()}

    for (name, there), here in zip(steps("cuda").items(), steps("cpu").values(), strict=True):
        torch.testing.assert_close(there, here, rtol=1e-3, atol=1e-4, equal_nan=True, msg=name)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("rule", ["dense", *RULES])
def test_a_gpu_learns_without_waiting(rule: str, precision: str) -> None:
    """PyTorch itself says where the host waits; weights stay float32."""
    images, labels, *_ = problem()
    model = network(rule).cuda().train()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, 0.9)
    x, y = images.cuda(), labels.cuda()
    index = torch.arange(32, device="cuda")
    generators = [make_generator(0, name, device="cuda") for name in ("augmentation", "attack")]
    losses = []
    for step in range(30):
        torch.cuda.set_sync_debug_mode("error" if step else "default")
        try:
            batch = augment(x, index, padding=1, flip=False, generator=generators[0])
            loss, _ = training_step(
                model, optimizer, batch, y[:32], recipe=recipe(precision=precision), generator=generators[1]
            )
        finally:
            torch.cuda.set_sync_debug_mode("default")
        losses.append(loss)
    assert losses[-1] < losses[0]
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
