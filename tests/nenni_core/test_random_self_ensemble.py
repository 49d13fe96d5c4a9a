"""RSE: the noise in front of each convolution, its size, its place, and what it costs."""

from contextlib import nullcontext
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
    identity_convolution,
    run,
    uniform,
    wrapped,
)
from torch import nn
from training_problem import net, problem, same

from nenni_core import InputError, bitops, held_noise
from nenni_core.bitops import ADDITION, GAUSSIAN_SAMPLE, MULTIPLICATION
from nenni_core.defenses import make_defense
from nenni_core.defenses.adversarial_training import AdversarialTraining
from nenni_core.defenses.clean_training import CleanTraining
from nenni_core.defenses.random_self_ensemble import NoisyInput
from nenni_core.models import build_model
from nenni_core.training.augmentation import pixels

KINDS = ("rse_add", "rse_multiply")


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_noise_is_normal_with_the_given_deviation(kind: str, held: bool) -> None:
    model = make_defense(kind, sigma_init=0.3).wrap(identity_convolution(), 0, (3, 80, 80))
    x = uniform(4, 3, 80, 80) + 0.5
    with held_noise(model) if held else nullcontext():
        difference = model(x) - x
    noise = difference / x if kind == "rse_multiply" else difference
    if held:  # one draw for all images
        torch.testing.assert_close(noise, noise[:1].expand_as(noise), atol=1e-5, rtol=1e-3)
        noise = noise[:1]
    assert_normal(noise, 0.3)


@pytest.mark.parametrize("kind", KINDS)
def test_each_convolution_has_its_noise_and_the_first_its_own_deviation(kind: str) -> None:
    model = make_defense(kind).wrap(build_model("small_resnet", num_classes=10), 0, (3, 32, 32))
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    layers = [m for m in model.modules() if isinstance(m, NoisyInput)]
    # on pixels in [0, 1], and so in front of what the model does to them first
    assert [layer.layer for layer in layers] == [model.normalize.layer, *convolutions[1:]]
    assert len(layers) == 9  # in place of the stem, six in blocks, two shortcuts
    assert [layer.sigma for layer in layers] == [0.2] + [0.1] * 8
    plain = make_defense(kind).wrap(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)), 0, SHAPE)
    assert [layer.sigma for layer in plain] == [0.2, 0.1]


@pytest.mark.parametrize("kind", KINDS)
def test_draws(kind: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(144, 4))
    assert_draws_as_agreed(make_defense(kind).wrap(model, 0, SHAPE))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("objective", "plain"), [("adversarial", AdversarialTraining()), ("clean", CleanTraining())]
)
def test_without_deviation_it_is_the_plain_training(
    kind: str, objective: str, plain: AdversarialTraining
) -> None:
    defense = make_defense(kind, sigma_init=0.0, sigma_inner=0.0, objective=objective)
    x = uniform(4, *SHAPE)
    assert torch.equal(wrapped(defense)(x), net()(x))
    expected, found = run(net(), plain), run(wrapped(defense), defense)
    assert same({name.replace(".layer", ""): value for name, value in found.last.items()}, expected.last)
    assert found.history == expected.history


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("objective", ["adversarial", "clean"])
def test_the_loss_is_the_cross_entropy_at_the_images_searched(kind: str, objective: str) -> None:
    defense = make_defense(kind, objective=objective)
    images, labels, *_ = problem(train=8)
    x, model = pixels(images), wrapped(defense).eval()
    with held_noise(model):
        loss, logits = defense.step(model, x, labels, context())
        again = defense.search(model, x, labels, context())
        torch.testing.assert_close(logits, model(again))
    torch.testing.assert_close(loss, cross_entropy(logits, labels))
    assert torch.equal(again, x) == (objective == "clean")


@pytest.mark.parametrize("kind", KINDS)
def test_a_restart_ends_in_the_same_bits(kind: str, tmp_path: Path) -> None:
    assert_restarts_to_the_bit(make_defense(kind), tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_it_can_be_injected_and_runs_in_sixteen_bits(kind: str) -> None:
    assert_injection_keeps_the_noise(make_defense(kind))
    assert_runs_in(wrapped(make_defense(kind)), torch.bfloat16)


@pytest.mark.parametrize(("kind", "products"), [("rse_add", 1), ("rse_multiply", 2)])
def test_bit_operations_by_hand(kind: str, products: int) -> None:
    model = make_defense(kind).wrap(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1)), 0, (3, 6, 6))
    cost = bitops(model, (3, 6, 6))
    inputs = 3 * 6 * 6 + 4 * 4 * 4
    assert cost.noise == inputs * (GAUSSIAN_SAMPLE + products * MULTIPLICATION + ADDITION)
    assert cost.dense == (16 * 4 * 27 + 16 * 2 * 4) * MULTIPLICATION
    assert cost.total == cost.dense + cost.noise


@pytest.mark.parametrize("kind", KINDS)
def test_the_cost_on_resnet18_is_within_what_the_paper_prints(kind: str) -> None:
    """2.61e9 over 2.60e9, each rounded to three digits. 666,624 inputs, 114,688 of them of shortcuts."""
    model = make_defense(kind).wrap(build_model("resnet18", num_classes=10).eval(), 0, (3, 32, 32))
    cost = bitops(model, (3, 32, 32))
    products = 1 if kind == "rse_add" else 2
    assert cost.noise == 666_624 * (GAUSSIAN_SAMPLE + products * MULTIPLICATION + ADDITION)
    assert 2.605 / 2.605 <= cost.ratio <= 2.615 / 2.595
    assert round(100 * (cost.ratio - 1), 1) == {"rse_add": 0.5, "rse_multiply": 0.6}[kind]


@pytest.mark.parametrize("name", ["sigma_init", "sigma_inner"])
def test_values_out_of_range_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=rf"{name} is -0\.1; expected a value at least 0"):
        make_defense("rse_add", **{name: -0.1})
    with pytest.raises(InputError, match="objective"):
        make_defense("rse_add", objective="cleann")
    with pytest.raises(InputError, match=r"Linear has no nn\.Conv2d layer"):
        make_defense("rse_add").wrap(nn.Linear(2, 2), 0, (3, 8, 8))
