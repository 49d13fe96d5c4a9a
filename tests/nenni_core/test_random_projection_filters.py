"""RPF: random filters beside learned ones, their size, who is trained, and what they cost."""

from pathlib import Path

import pytest
import torch
from defence_checks import (
    SHAPE,
    assert_draws_as_agreed,
    assert_injection_keeps_the_noise,
    assert_normal,
    assert_restarts_to_the_bit,
    assert_runs_in,
    context,
    cross_entropy,
    run,
    uniform,
    wrapped,
)
from torch import nn
from training_problem import net, problem, recipe

from nenni_core import Injection, InputError, bitops, held_noise, inject
from nenni_core.bitops import GAUSSIAN_SAMPLE, MULTIPLICATION
from nenni_core.defenses import make_defense
from nenni_core.defenses.random_projection_filters import PartlyRandomConvolution, RandomFilters
from nenni_core.models import build_model
from nenni_core.training.augmentation import pixels
from nenni_core.training.loop import training_step

RPF = make_defense("rpf")


def filters_of(layer: nn.Module, inputs: int, size: int) -> torch.Tensor:
    """The weights of a convolution without padding, read off its outputs at unit images."""
    units = torch.eye(inputs * size**2).reshape(-1, inputs, size, size)
    return layer(units).squeeze((2, 3)).T.reshape(-1, inputs, size, size)


@pytest.mark.parametrize("size", [3, 5])
def test_random_filters_have_the_deviation_one_over_their_width(size: int) -> None:
    layer = RandomFilters(1500, nn.Conv2d(3, 2000, size))
    assert_normal(filters_of(layer, 3, size), 1 / size)
    assert not torch.equal(filters_of(layer, 3, size), filters_of(layer, 3, size))


def test_learned_filters_are_as_large_and_come_first() -> None:
    dense = nn.Conv2d(3, 64, 3, bias=False)
    with torch.no_grad():
        dense.weight.mul_(7).add_(1)
    layer = PartlyRandomConvolution(dense, 48)
    first, again = filters_of(layer, 3, 3), filters_of(layer, 3, 3)
    assert first.shape == (64, 3, 3, 3)
    assert torch.equal(layer.layer.weight, dense.weight[:16])
    for filter_, weight in zip(first[:16], dense.weight, strict=False):
        deviation = ((weight - weight.mean()).square().sum() / 26).sqrt()
        torch.testing.assert_close(filter_, weight / (deviation + 1e-5) / 3)
        assert filter_.std().item() == pytest.approx(1 / 3, rel=1e-3)
    assert torch.equal(first[:16], again[:16])  # drawing anew leaves them alone
    assert (first[16:] != again[16:]).all()


def test_the_gradient_goes_through_the_deviation() -> None:
    """The output does not change with the size of a learned filter: its gradient is orthogonal to it."""
    layer = PartlyRandomConvolution(nn.Conv2d(3, 8, 3), 6).double()
    layer(uniform(4, *SHAPE).double()).square().sum().backward()
    weight, gradient = layer.layer.weight, layer.layer.weight.grad
    along = (weight * gradient).flatten(1).sum(1)
    assert (along.abs() < 1e-3 * weight.flatten(1).norm(dim=1) * gradient.flatten(1).norm(dim=1)).all()


@pytest.mark.parametrize(
    ("share", "filters", "random"),
    [(0.75, 64, 48), (0.75, 32, 24), (0.5, 64, 32), (0.01, 8, 1), (0.99, 8, 7)],
)
def test_the_share_of_the_first_convolution_is_random_and_no_other(
    share: float, filters: int, random: int
) -> None:
    later = nn.Conv2d(filters, 4, 3)
    model = nn.Sequential(nn.Identity(), nn.Conv2d(3, filters, 3, stride=2, padding=1, dilation=2), later)
    shape = model(uniform(2, *SHAPE)).shape
    model = make_defense("rpf", random_share=share).wrap(model, 0, SHAPE)
    assert isinstance(model[1], PartlyRandomConvolution)
    assert (model[1].random.shape, model[1].layer.out_channels) == ((random, 3, 3, 3), filters - random)
    assert model[2] is later
    assert model(uniform(2, *SHAPE)).shape == shape


@pytest.mark.parametrize("name", ["small_resnet", "resnet18", "wrn34_10"])
def test_it_is_the_stem_of_our_networks(name: str) -> None:
    model = RPF.wrap(build_model(name, num_classes=10), 0, (3, 32, 32))
    assert isinstance(model.conv1, PartlyRandomConvolution)
    assert sum(isinstance(module, PartlyRandomConvolution) for module in model.modules()) == 1


def test_draws() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 4))
    assert_draws_as_agreed(RPF.wrap(model, 0, SHAPE))


def test_building_and_drawing_leave_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    wrapped(RPF)(uniform(4, *SHAPE))
    assert torch.equal(torch.get_rng_state(), before)


def test_only_learned_filters_are_trained_and_stored() -> None:
    model = wrapped(RPF)
    names = set(model.state_dict())
    assert names == {
        name.replace("0.", "0.layer.", 1) if name[0] == "0" else name for name in net().state_dict()
    }
    result = run(model, RPF, epochs=1)
    assert result.last["0.layer.weight"].shape == (2, 3, 3, 3)
    assert not torch.equal(result.last["0.layer.weight"], net()[0].weight[:2])
    assert not list(model[0].random.parameters())
    assert not list(model[0].random.buffers())


def test_learned_filters_beside_random_ones_have_a_weight_decay_of_their_own() -> None:
    model = wrapped(RPF)
    groups = RPF.parameter_groups(model)
    optimizer = torch.optim.SGD(groups, lr=0.1, weight_decay=5e-4)
    weights = {name: value.detach().clone() for name, value in model.named_parameters()}
    images, labels, *_ = problem(train=16)
    generator = torch.Generator().manual_seed(0)
    training_step(model, optimizer, pixels(images), labels, recipe=recipe(), generator=generator, defense=RPF)
    for name, value in model.named_parameters():
        decay = 1e-2 if name == "0.layer.weight" else 5e-4
        expected = weights[name] - 0.1 * (value.grad + decay * weights[name])
        torch.testing.assert_close(value.detach(), expected)
    assert sum(len(group["params"]) for group in groups) == len(weights)


@pytest.mark.parametrize("objective", ["adversarial", "clean"])
def test_the_loss_is_the_cross_entropy_at_the_images_searched(objective: str) -> None:
    defense = make_defense("rpf", objective=objective)
    images, labels, *_ = problem(train=8)
    x, model = pixels(images), wrapped(defense).eval()
    with held_noise(model):
        loss, logits = defense.step(model, x, labels, context())
        again = defense.search(model, x, labels, context())
        torch.testing.assert_close(logits, model(again))
    torch.testing.assert_close(loss, cross_entropy(logits, labels))
    assert torch.equal(again, x) == (objective == "clean")


def test_a_restart_ends_in_the_same_bits(tmp_path: Path) -> None:
    assert_restarts_to_the_bit(RPF, tmp_path)


def test_it_can_be_injected_and_runs_in_sixteen_bits() -> None:
    assert_injection_keeps_the_noise(RPF)
    assert_runs_in(wrapped(RPF), torch.bfloat16)


def test_channels_last_stays() -> None:
    layer = PartlyRandomConvolution(nn.Conv2d(3, 8, 3), 6)
    x = uniform(4, *SHAPE).contiguous(memory_format=torch.channels_last)
    assert layer(x).is_contiguous(memory_format=torch.channels_last)


def test_bit_operations_by_hand() -> None:
    """A convolution costs what it did, and each random weight a normal number and its size."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1))
    plain = bitops(model, (3, 6, 6))
    cost = bitops(RPF.wrap(model, 0, (3, 6, 6)), (3, 6, 6))
    assert cost.noise == 3 * 27 * (GAUSSIAN_SAMPLE + MULTIPLICATION)
    assert (cost.dense, cost.macs) == (plain.dense, plain.macs)
    assert [(layer.name, layer.outputs) for layer in cost.layers] == [
        ("0.layer", 16), ("0.random", 48), ("1", 32),
    ]  # fmt: skip
    assert cost.total == plain.dense + cost.noise


def test_the_cost_on_resnet18_is_what_the_paper_prints() -> None:
    """2.60e9, as of the dense network."""
    plain = build_model("resnet18", num_classes=10).eval()
    dense = bitops(plain, (3, 32, 32)).dense
    cost = bitops(RPF.wrap(plain, 0, (3, 32, 32)), (3, 32, 32))
    assert cost.dense == dense
    assert 1 < cost.ratio < 2.605 / 2.60


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (
            nn.Conv2d(4, 8, 3, groups=2),
            r"'' \(Conv2d\) cannot have random filters: it has 2 groups; expected",
        ),
        (nn.Conv2d(4, 8, 3, padding=1, padding_mode="reflect"), "its padding is 'reflect'"),
        (nn.Conv2d(4, 1, 3), "it has one filter"),
        (nn.Conv2d(1, 8, 1), "its filters have one weight"),
        (inject(nn.Conv2d(4, 8, 3), Injection()), r"not a plain nn\.Conv2d"),
        (nn.Linear(2, 2), r"Linear has no nn\.Conv2d layer"),
    ],
)
def test_convolutions_that_cannot_be_random_are_refused(layer: nn.Module, message: str) -> None:
    with pytest.raises(InputError, match=message):
        RPF.wrap(layer, 0, (4, 8, 8))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"random_share": 1.0}, r"random_share is 1\.0; expected a value above 0 and below 1"),
        ({"learned_weight_decay": -1.0}, r"learned_weight_decay is -1\.0; expected a value at least 0"),
    ],
)
def test_values_out_of_range_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_defense("rpf", **settings)
