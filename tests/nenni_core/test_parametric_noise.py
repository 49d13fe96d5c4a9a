"""PNI: the noise on the weights, the gradient of its size, the mixed loss."""

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
from nenni_core.defenses.parametric_noise import NoisyWeights
from nenni_core.models import build_model
from nenni_core.training.augmentation import pixels
from nenni_core.training.loop import training_step

PNI = make_defense("pni")


@pytest.mark.parametrize("granularity", ["layerwise", "channelwise"])
def test_the_noise_has_alpha_deviations_of_the_weights(granularity: str) -> None:
    layer = NoisyWeights(nn.Conv2d(40, 40, 5), 0.25, channelwise=granularity == "channelwise")
    weight = layer.layer.weight.detach().clone()
    deviation = float(((weight - weight.mean()).square().sum() / (weight.numel() - 1)).sqrt())
    assert_normal(layer.perturbed_weight() - weight, 0.25 * deviation)
    with torch.no_grad():
        layer.alpha[0] = 0.5
    noise = (layer.perturbed_weight() - weight).detach()
    assert_normal(noise if granularity == "layerwise" else noise[1:], layer.alpha[-1].item() * deviation)
    assert float(noise[0].std()) == pytest.approx(0.5 * deviation, rel=0.1)  # of 1000 weights
    assert torch.equal(layer.layer.weight, weight)


@pytest.mark.parametrize("granularity", ["layerwise", "channelwise"])
def test_every_convolution_and_linear_layer_has_noise(granularity: str) -> None:
    model = make_defense("pni", granularity=granularity).wrap(
        build_model("small_resnet", num_classes=10), 0, (3, 32, 32)
    )
    layers = [m for m in model.modules() if isinstance(m, NoisyWeights)]
    plain = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert [layer.layer for layer in layers] == plain
    assert len(layers) == 9 + 1
    for layer in layers:
        assert layer.alpha.shape == ((1,) if granularity == "layerwise" else layer.layer.weight.shape[:1])
        assert (layer.alpha == 0.25).all()


def test_draws() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 4))
    assert_draws_as_agreed(PNI.wrap(model, 0, SHAPE))


def test_the_deviation_has_bessels_correction() -> None:
    """Of 0 and 1 it is sqrt(1/2)."""
    layer = NoisyWeights(nn.Linear(2, 1), 0.25, channelwise=False)
    with torch.no_grad():
        layer.layer.weight.copy_(torch.tensor([[0.0, 1.0]]))
    with held_noise(layer):
        noise = layer.perturbed_weight() - layer.layer.weight
        eta = layer.noise_stream.normal(layer, noise, (1, 2))
    torch.testing.assert_close(noise, 0.25 * 0.5**0.5 * eta)


def test_a_single_weight_has_no_deviation() -> None:
    layer = NoisyWeights(nn.Linear(1, 1), 0.25, channelwise=False)
    assert torch.equal(layer.perturbed_weight(), layer.layer.weight)


def gradients(weight: Tensor, bias: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Of the mean cross-entropy of a linear model, written out."""
    error = (x.flatten(1) @ weight.T + bias).softmax(1) - F.one_hot(y, 4)
    return error.T @ x.flatten(1) / len(x), error.mean(0)


@pytest.mark.parametrize("granularity", ["layerwise", "channelwise"])
def test_loss_and_gradients_are_those_written_out(granularity: str) -> None:
    """With w' = w + alpha eta: dL/dw = dL/dw', and dL/dalpha is the sum of eta dL/dw' over what shares it."""
    defense = make_defense("pni", granularity=granularity)
    model = defense.wrap(linear_model(), 0, SHAPE)
    x, x_adv, y = uniform(8, *SHAPE), uniform(8, *SHAPE, seed=1), torch.arange(8) % 4
    layer, bias = model[1], model[1].layer.bias.detach()
    with held_noise(model):
        loss, logits = defense.loss(model, x, x_adv, y, context())
        loss.backward()
        noisy = layer.perturbed_weight().detach()
    eta = (noisy - layer.layer.weight.detach()) / 0.25
    expected = [images.flatten(1) @ noisy.T + bias for images in (x, x_adv)]
    torch.testing.assert_close(logits, expected[1])
    torch.testing.assert_close(loss, (cross_entropy(expected[0], y) + cross_entropy(expected[1], y)) / 2)
    clean, attacked = gradients(noisy, bias, x, y), gradients(noisy, bias, x_adv, y)
    total = (clean[0] + attacked[0]) / 2
    torch.testing.assert_close(layer.layer.weight.grad, total)
    torch.testing.assert_close(layer.layer.bias.grad, (clean[1] + attacked[1]) / 2)
    each = (total * eta).sum(1)
    torch.testing.assert_close(
        layer.alpha.grad, each if granularity == "channelwise" else each.sum(0, keepdim=True),
        atol=1e-5, rtol=1e-4,
    )  # fmt: skip


def test_clean_and_attacked_images_have_draws_of_their_own() -> None:
    model = PNI.wrap(linear_model(), 0, SHAPE)
    drawn: list[Tensor] = []
    model[1].layer.register_forward_pre_hook(
        lambda layer, inputs: drawn.append(layer.weight.detach().clone())
    )
    x, y = uniform(8, *SHAPE), torch.arange(8) % 4
    PNI.step(model, x, y, context(steps=3))
    assert len(drawn) == 3 + 2
    assert torch.equal(drawn[0], drawn[2])  # the attack has one draw
    assert not torch.equal(drawn[2], drawn[3])
    assert not torch.equal(drawn[3], drawn[4])


@pytest.mark.parametrize(("position", "clean"), [(0.0, True), (0.31, True), (0.32, False), (5.0, False)])
def test_the_first_thirty_second_part_is_clean(position: float, clean: bool) -> None:
    """5 of 160 epochs: 0.3125 of ten."""
    model = PNI.wrap(linear_model(), 0, SHAPE)
    x, y, now = uniform(8, *SHAPE), torch.arange(8) % 4, context(position=position)
    assert (PNI.search(model, x, y, now) is x) == clean
    with held_noise(model):
        loss, logits = PNI.loss(model, x, 1 - x, y, now)
        assert torch.equal(logits, model(x if clean else 1 - x))
    assert torch.isclose(loss, cross_entropy(logits, y)).item() == clean


def test_with_alpha_fixed_at_zero_it_is_the_plain_network() -> None:
    defense = make_defense("pni", alpha=0.0)

    def silent() -> nn.Module:
        model = wrapped(defense)
        for module in model.modules():
            if isinstance(module, NoisyWeights):
                module.alpha.requires_grad_(False)
        return model

    x = uniform(4, *SHAPE)
    assert torch.equal(silent()(x), net()(x))
    expected, found = run(net(), defense), run(silent(), defense)
    weights = {k.replace(".layer", ""): v for k, v in found.last.items() if not k.endswith("alpha")}
    assert same(weights, expected.last)
    assert found.history == expected.history


def test_alpha_is_trained_without_weight_decay() -> None:
    model = PNI.wrap(linear_model(), 0, SHAPE)
    groups = PNI.parameter_groups(model)
    optimizer = torch.optim.SGD(groups, lr=0.1, weight_decay=0.5)
    layer = model[1]
    before = layer.alpha.detach().clone()
    images, labels, *_ = problem(train=8)
    generator = torch.Generator().manual_seed(0)
    training_step(model, optimizer, pixels(images), labels, recipe=recipe(), generator=generator, defense=PNI,
                  position=2.0)  # fmt: skip
    torch.testing.assert_close(layer.alpha.detach(), before - 0.1 * layer.alpha.grad)
    assert not torch.equal(layer.alpha.detach(), before)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5, 0.0]
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


@pytest.mark.parametrize("granularity", ["layerwise", "channelwise"])
def test_a_restart_ends_in_the_same_bits(granularity: str, tmp_path: Path) -> None:
    assert_restarts_to_the_bit(make_defense("pni", granularity=granularity), tmp_path)


def test_it_can_be_injected_and_runs_in_sixteen_bits() -> None:
    assert_injection_keeps_the_noise(PNI)
    assert_runs_in(wrapped(PNI), torch.bfloat16)


@pytest.mark.parametrize(("granularity", "alphas"), [("layerwise", 2), ("channelwise", 6)])
def test_bit_operations_by_hand(granularity: str, alphas: int) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(64, 2))
    cost = bitops(make_defense("pni", granularity=granularity).wrap(model, 0, (3, 6, 6)), (3, 6, 6))
    each = GAUSSIAN_SAMPLE + MULTIPLICATION + ADDITION
    assert cost.noise == (4 * 27 + 64 * 2) * each + alphas * MULTIPLICATION
    assert cost.dense == 16 * 4 * 27 * MULTIPLICATION
    assert cost.total == cost.dense + cost.noise


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"granularity": "layer"}, "unknown granularity 'layer'; did you mean 'layerwise'"),
        ({"alpha": float("nan")}, r"alpha is nan; expected a value in \[-1e6, 1e6\]"),
        ({"adversarial_weight": 1.5}, r"adversarial_weight is 1\.5; expected a value in \[0, 1\]"),
        ({"clean_start": -0.5}, r"clean_start is -0\.5; expected a value in \[0, 1\]"),
    ],
)
def test_values_out_of_range_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_defense("pni", **settings)


def test_a_network_without_weights_is_refused() -> None:
    with pytest.raises(InputError, match=r"Flatten has no nn\.Conv2d or nn\.Linear layer"):
        PNI.wrap(nn.Flatten(), 0, SHAPE)
