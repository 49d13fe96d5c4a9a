"""Learn2Perturb: noise on feature maps, the gradient of its size, its places, its loss."""

from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from defence_checks import (
    SHAPE,
    assert_draws_as_agreed,
    assert_injection_keeps_the_noise,
    assert_normal,
    assert_restarts_to_the_bit,
    assert_runs_in,
    context,
    cross_entropy,
    linear_model,
    run,
    uniform,
    wrapped,
)
from torch import Tensor, nn
from training_problem import net, problem, recipe, same

from nenni_core import InputError, bitops, held_noise
from nenni_core.bitops import ADDITION, GAUSSIAN_SAMPLE, MULTIPLICATION
from nenni_core.defenses import make_defense
from nenni_core.defenses.learn2perturb import PerturbedMap, perturbed_maps
from nenni_core.defenses.mixed_training import MixedTraining
from nenni_core.models import build_model
from nenni_core.training.augmentation import pixels
from nenni_core.training.loop import training_step

L2P = make_defense("learn2perturb", noise_start=0.0)


def rectified_linear() -> nn.Sequential:
    """ReLU, then one linear layer."""
    flatten, linear = linear_model()
    return L2P.wrap(nn.Sequential(flatten, nn.ReLU(), linear), 0, SHAPE)


def test_each_value_has_a_normal_draw_of_its_own_deviation_that_the_batch_shares() -> None:
    layer = PerturbedMap(nn.Identity(), (3, 80, 80), 0.25, torch.device("cpu"))
    x = uniform(4, 3, 80, 80)
    assert_normal((layer(x) - x)[0], 0.25)
    with torch.no_grad():
        layer.sigma.copy_(uniform(3, 80, 80, seed=1) + 0.1)
    noise = layer(x) - x
    torch.testing.assert_close(noise, noise[:1].expand_as(noise), atol=1e-6, rtol=1e-4)
    assert_normal(noise[0] / layer.sigma, 1.0)


@pytest.mark.parametrize(
    ("name", "places", "shapes"),
    [
        ("small_resnet", ["relu", "relu2"], [(32, 16, 16)] * 2 + [(64, 8, 8), (128, 4, 4)]),
        ("resnet18", ["relu", "relu2"], [(64, 32, 32)] * 3 + [(128, 16, 16)] * 2 + [(256, 8, 8)] * 2
         + [(512, 4, 4)] * 2),
        ("wrn34_10", ["relu", "relu1"], [(16, 32, 32)] + [(160, 32, 32)] * 5 + [(320, 16, 16)] * 5
         + [(640, 8, 8)] * 5),
    ],
)  # fmt: skip
def test_noise_is_in_front_of_the_relu_of_the_stem_and_of_each_sum(
    name: str, places: list[str], shapes: list[tuple]
) -> None:
    model = L2P.wrap(build_model(name, num_classes=10), 0, (3, 32, 32))
    found = {n: m for n, m in model.named_modules() if isinstance(m, PerturbedMap)}
    assert sorted({n.rpartition(".")[2] for n in found}) == places
    assert sorted(tuple(m.sigma.shape) for m in found.values()) == sorted(shapes)
    assert all((m.sigma == 0.25).all() for m in found.values())
    assert all(isinstance(m.layer, nn.ReLU) for m in found.values())


def test_draws() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 4), nn.ReLU())
    assert_draws_as_agreed(L2P.wrap(model, 0, SHAPE))


class Reused(nn.Module):
    """One ReLU for maps of two sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(3, 3, 3), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.conv(self.relu(x)))


def test_networks_without_a_place_for_noise_are_refused() -> None:
    with pytest.raises(InputError, match=r"Flatten has no nn\.ReLU layer"):
        L2P.wrap(nn.Flatten(), 0, SHAPE)
    with pytest.raises(InputError, match=r"'relu' sees maps of 2 shapes, .*expected one shape"):
        L2P.wrap(Reused(), 0, SHAPE)


@pytest.mark.parametrize(
    ("position", "tau"), [(2.0, 1.0), (3.9, 1.0), (4.0, 1 + 1 / 2), (6.5, 1 + 1 / 2 + 1 / 3 + 1 / 4)]
)
def test_loss_and_gradients_are_those_written_out(position: float, tau: float) -> None:
    """Noise from the second of ten epochs on: tau is the harmonic number of the whole epochs since."""
    defense = make_defense("learn2perturb", gamma=0.01, noise_start=0.2)
    model = rectified_linear()
    x, x_adv, y = uniform(8, *SHAPE), uniform(8, *SHAPE, seed=1), torch.arange(8) % 4
    layer, weight, bias = model[1], model[2].weight.detach(), model[2].bias.detach()
    with torch.no_grad():
        layer.sigma.copy_(uniform(300, seed=2) + 0.1)
    sigma = layer.sigma.detach().clone()
    with held_noise(model):
        loss, logits = defense.loss(model, x, x_adv, y, context(position=position))
        loss.backward()
        noise = layer.noise_stream.normal(layer, x, (1, 300))
    assert noise.shape == (1, 300)
    gradient, terms = -0.01 / tau / (2 * sigma.sqrt()), []
    for images in (x, x_adv):
        before = images.flatten(1) + sigma * noise
        terms.append(before.clamp(min=0) @ weight.T + bias)
        error = (terms[-1].softmax(1) - F.one_hot(y, 4)) / len(y)
        gradient = gradient + ((error @ weight) * (before > 0) * noise).sum(0) / 2
    expected = (cross_entropy(terms[0], y) + cross_entropy(terms[1], y)) / 2
    torch.testing.assert_close(loss, expected - 0.01 / tau * sigma.sqrt().sum())
    torch.testing.assert_close(logits, terms[1])
    torch.testing.assert_close(layer.sigma.grad, gradient, atol=1e-7, rtol=1e-4)


def test_before_its_start_there_is_no_noise_and_no_term_of_it() -> None:
    defense = make_defense("learn2perturb", noise_start=0.5, clean_start=0.0)
    flatten, linear = linear_model()
    model = defense.wrap(nn.Sequential(flatten, nn.ReLU(), linear), 0, SHAPE)
    x, y = uniform(8, *SHAPE), torch.arange(8) % 4
    plain = linear_model()
    assert torch.equal(model(x), plain(x))  # pixels are not negative
    loss, logits = defense.step(model, x, y, context(position=4.9))
    assert torch.equal(logits, model(defense.search(model, x, y, context(position=4.9))))
    torch.testing.assert_close(loss, (cross_entropy(plain(x), y) + cross_entropy(logits, y)) / 2)
    assert float(model[1].active) == 0
    defense.step(model, x, y, context(position=5.0))
    assert float(model[1].active) == 1
    assert not torch.equal(model(x), model(x))


def test_without_noise_it_is_the_plain_network() -> None:
    """With every sigma at 0, and trained with noise that never starts."""
    model, x = wrapped(L2P), uniform(4, *SHAPE)
    with torch.no_grad():
        for module in perturbed_maps(model):
            module.sigma.zero_()
    assert torch.equal(model(x), net()(x))
    defense = make_defense("learn2perturb", noise_start=1.0)
    expected, found = run(net(), MixedTraining(clean_start=20 / 350)), run(wrapped(defense), defense)
    added = ("sigma", "active")
    weights = {k.replace(".layer", ""): v for k, v in found.last.items() if not k.endswith(added)}
    assert same(weights, expected.last)
    assert found.history == expected.history
    assert all((value == 0.25).all() for name, value in found.last.items() if name.endswith("sigma"))


@pytest.mark.parametrize("rate", [0.01, 1000.0])
def test_sigma_is_trained_without_weight_decay_and_kept_above_its_minimum(rate: float) -> None:
    model = rectified_linear()
    groups = L2P.parameter_groups(model)
    optimizer = torch.optim.SGD(groups, lr=rate, weight_decay=0.5)
    images, labels, *_ = problem(train=8)
    layer, generator = model[1], torch.Generator().manual_seed(0)
    training_step(model, optimizer, pixels(images), labels, recipe=recipe(), generator=generator, defense=L2P,
                  position=1.0)  # fmt: skip
    torch.testing.assert_close(layer.sigma.detach(), (0.25 - rate * layer.sigma.grad).clamp(min=0.01))
    assert (layer.sigma.min().item() == pytest.approx(0.01)) == (rate == 1000.0)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5, 0.0]
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_a_failed_step_leaves_sigma_above_its_minimum_too() -> None:
    model = rectified_linear()
    with ExitStack() as stack:
        L2P.maintain(model, context(after_step=stack))
        with torch.no_grad():
            model[1].sigma.fill_(-1.0)
    assert (model[1].sigma == 0.01).all()


@pytest.mark.parametrize("noise_start", [0.0, 0.5, 0.8])
def test_a_restart_ends_in_the_same_bits(noise_start: float, tmp_path: Path) -> None:
    """With noise from the start, from the middle of the second of three epochs, from after the restart."""
    assert_restarts_to_the_bit(make_defense("learn2perturb", noise_start=noise_start), tmp_path)


def test_it_can_be_injected_and_runs_in_sixteen_bits() -> None:
    assert_injection_keeps_the_noise(L2P)
    assert_runs_in(wrapped(L2P), torch.bfloat16)


def test_bit_operations_by_hand() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2), nn.ReLU())
    cost = bitops(L2P.wrap(model, 0, (3, 6, 6)), (3, 6, 6))
    assert cost.noise == (64 + 2) * (GAUSSIAN_SAMPLE + MULTIPLICATION + ADDITION)
    assert cost.dense == 16 * 4 * 27 * MULTIPLICATION
    assert cost.total == cost.dense + cost.noise


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sigma": 0.001}, r"sigma is 0\.001; expected a value from minimum to 1e6"),
        ({"minimum": 0.0}, r"minimum is 0\.0; expected a value above 0"),
        ({"gamma": -1.0}, r"gamma is -1\.0; expected a value at least 0"),
        ({"noise_start": 1.5}, r"noise_start is 1\.5; expected a value in \[0, 1\]"),
    ],
)
def test_values_out_of_range_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_defense("learn2perturb", **settings)
