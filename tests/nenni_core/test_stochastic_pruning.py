"""Stochastic activation pruning: how often a value survives, what it becomes, and what a held draw is."""

import copy
from math import ceil, log2
from pathlib import Path

import pytest
import torch
from scipy.stats import chi2, kstest
from torch import Tensor, nn
from training_problem import net, problem, recipe, same

from nenni_core import InputError, bitops
from nenni_core.bitops import ADDITION, MULTIPLICATION, UNIFORM_SAMPLE
from nenni_core.defenses import make_defense
from nenni_core.defenses.stochastic_pruning import StochasticActivationPruning, StochasticPruning
from nenni_core.models import build_model
from nenni_core.randomness import NoiseStream, held_noise, noise_streams, set_noise
from nenni_core.training import train

P = torch.tensor([0.4, 0.25, 0.0, 0.2, 0.1, 0.05])
"""The shares of six values, one of which is 0."""

SHAPE = (3, 16, 16)


def pruning(fraction: float = 1.0, seed: int = 0) -> StochasticPruning:
    layer = StochasticPruning(nn.Identity(), fraction)
    layer.noise_stream = NoiseStream(seed, "inference")
    return layer


def maps(count: int, factor: float = 3.0) -> Tensor:
    """`count` equal maps of 6 x 1 x 1 whose shares are `P`, with alternating signs."""
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])
    return (factor * P * signs).view(1, 6, 1, 1).repeat(count, 1, 1, 1)


def statistic(survived: Tensor, draws: int) -> float:
    """The sum of squared standardised deviations from 1 - (1 - p)^draws, over values that can survive."""
    possible = P > 0
    expected = 1 - (1 - P[possible].double()) ** draws
    count = len(survived)
    found = survived[:, possible].double().sum(0)
    return float(((found - count * expected) ** 2 / (count * expected * (1 - expected))).sum())


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize(("fraction", "draws"), [(0.5, 3), (1.0, 6), (2.0, 12)])
def test_values_survive_with_the_probability_of_being_drawn(fraction: float, draws: int, held: bool) -> None:
    """Five binomial counts against a chi-square limit with room, as they depend on each other a little."""
    layer, count = pruning(fraction), 8_000 if held else 20_000
    if held:
        outputs = []
        for _ in range(count):
            with held_noise(layer):
                outputs.append(layer(maps(1)))
        survived = torch.cat(outputs).flatten(1) != 0
    else:
        survived = layer(maps(count)).flatten(1) != 0
    assert not survived[:, P == 0].any()
    limit = chi2.ppf(1 - 1e-4, 5) * 1.5
    assert statistic(survived, draws) < limit
    for wrong in (draws - 1, draws + 1):
        assert statistic(survived, wrong) > limit


def test_pairs_survive_as_draws_with_replacement_have_it() -> None:
    """Both of i and j: 1 - (1 - p_i)^r - (1 - p_j)^r + (1 - p_i - p_j)^r; independent choices would not."""
    count, r = 40_000, 3
    survived = (pruning(0.5)(maps(count)).flatten(1) != 0).double()
    p = P.double()
    for i, j in [(0, 1), (0, 3), (1, 4)]:
        one, other, neither = (1 - p[i]) ** r, (1 - p[j]) ** r, (1 - p[i] - p[j]) ** r
        both = float(1 - one - other + neither)
        deviation = (both * (1 - both) / count) ** 0.5
        found = float((survived[:, i] * survived[:, j]).mean())
        assert abs(found - both) < 4.5 * deviation
        assert abs(found - float((1 - one) * (1 - other))) > 4.5 * deviation


def test_survivors_are_divided_by_their_probability() -> None:
    x = maps(200)
    out = pruning(0.5)(x)
    survived = out != 0
    expected = x.double() / (1 - (1 - P.double()) ** 3).view(1, 6, 1, 1)
    torch.testing.assert_close(out[survived], expected.float()[survived])


def test_the_expectation_is_the_input() -> None:
    count = 40_000
    x = maps(count)
    out = pruning()(x).double().flatten(1)
    kept = 1 - (1 - P.double()) ** 6
    deviation = x[0].flatten().double() * ((1 - kept) / kept / count).sqrt().nan_to_num(posinf=0)
    assert ((out.mean(0) - x[0].flatten()).abs() <= 4.5 * deviation.abs() + 1e-7).all()


def test_the_ordered_numbers_are_those_of_uniform_draws() -> None:
    """The i-th smallest of r uniform numbers has the distribution Beta(i, r + 1 - i)."""
    numbers = pruning()._sorted_uniform(torch.zeros(4000, 6), 6)
    assert (numbers.diff(dim=1) > 0).all()
    for place in range(6):
        drawn = numbers[:, place].numpy()
        assert kstest(drawn, "beta", args=(place + 1, 6 - place)).pvalue > 1e-3
        assert kstest(drawn, "beta", args=(place + 1, 7 - place)).pvalue < 1e-6


def test_one_value_alone_always_survives_unchanged() -> None:
    x = torch.zeros(3, 2, 4, 4)
    x[:, 1, 2, 3] = torch.tensor([0.3, 1e-20, 7.0])
    assert torch.equal(pruning(0.1)(x), x)


def test_an_empty_map_stays_empty() -> None:
    x = torch.rand(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    x[1] = 0
    out = pruning()(x.requires_grad_())
    out.sum().backward()
    assert (out[1] == 0).all()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert (x.grad[1] == 0).all()


def test_scale_and_choice_are_constants_of_the_gradient() -> None:
    x = torch.rand(4, 3, 5, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weights = torch.rand(4, 3, 5, 5, generator=torch.Generator().manual_seed(1))
    out = pruning()(x)
    (out * weights).sum().backward()
    scale = torch.where(out == 0, 0.0, out / x).detach()
    torch.testing.assert_close(x.grad, weights * scale)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_memory_format_and_type_are_kept(layout: torch.memory_format) -> None:
    x = torch.rand(2, 3, 5, 5, generator=torch.Generator().manual_seed(0)).contiguous(memory_format=layout)
    out = pruning()(x)
    assert out.is_contiguous(memory_format=layout)
    assert torch.equal(out, pruning()(x.contiguous()))
    assert pruning()(x.bfloat16()).dtype == torch.bfloat16
    assert pruning()(x[:0]).shape == (0, 3, 5, 5)


def small(seed: int = 0) -> nn.Module:
    model = build_model("small_resnet", num_classes=4, image_size=8)
    return StochasticActivationPruning().wrap(model, seed, SHAPE).eval()


def images(count: int = 6) -> Tensor:
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(2))


def test_each_forward_draws_afresh_from_the_seed() -> None:
    model, again, other = small(), small(), small(seed=1)
    first, second = model(images()), model(images())
    assert not torch.equal(first, second)
    assert torch.equal(again(images()), first)
    assert not torch.equal(other(images()), first)
    assert len(noise_streams(model)) == 1
    set_noise(model, "inference", 0)
    assert torch.equal(model.train().eval()(images()), first)
    assert torch.equal(copy.deepcopy(again)(images()), second)


def test_images_of_a_batch_have_draws_of_their_own() -> None:
    x = images(1).repeat(2, 1, 1, 1)
    one, other = small()(x)
    assert not torch.equal(one, other)


def test_a_held_draw_is_one_function_of_each_image() -> None:
    model = small()
    rows = [4, 0, 3]
    with held_noise(model), torch.no_grad():
        everything = model(images())
        assert torch.equal(model(images()), everything)
        layer = next(m for m in model.modules() if isinstance(m, StochasticPruning))
        h = torch.rand(6, 32, 8, 8, generator=torch.Generator().manual_seed(3))
        held = layer(h)
        assert torch.equal(layer(h[rows]), held[rows])
        assert torch.equal(layer(h[:1]), held[:1])
        torch.testing.assert_close(model(images()[rows]), everything[rows])
    assert not torch.equal(layer(h), held)
    with held_noise(model):
        assert not torch.equal(layer(h), held)


def test_a_layer_used_for_two_sizes_keeps_a_draw_of_each() -> None:
    layer = pruning()
    x = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    with held_noise(layer):
        large, little = layer(x), layer(x[..., :2])
        assert torch.equal(layer(x), large)
        assert torch.equal(layer(x[..., :2]), little)


def test_every_relu_is_followed_by_a_pruning() -> None:
    layers = [m for m in small().modules() if isinstance(m, StochasticPruning)]
    assert len(layers) == 7
    assert all(isinstance(layer.layer, nn.ReLU) for layer in layers)
    plain = build_model("small_resnet", num_classes=4, image_size=8)
    assert small().state_dict().keys() == plain.state_dict().keys()


def test_operations_counted_by_hand() -> None:
    """A map of 100 values, 50 draws of 7 comparisons each, 50 survivors at most."""
    assert ceil(log2(100)) == 7
    expected = 100 * ADDITION
    expected += 50 * (UNIFORM_SAMPLE + MULTIPLICATION + 7 * ADDITION)
    expected += 50 * (3 * MULTIPLICATION + ADDITION)
    assert pruning(0.5).own_bitops((4, 5, 5), (4, 5, 5)) == expected
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    plain = bitops(model, (3, 5, 5)).total
    wrapped = StochasticActivationPruning(fraction=0.5).wrap(model, 0, SHAPE)
    assert bitops(wrapped, (3, 5, 5)).total == plain + expected


def test_fine_tuning_restarts_to_the_bit(tmp_path: Path) -> None:
    defense = StochasticActivationPruning(base="clean", epochs=2)

    def run(directory: Path | None, on_epoch: object = None) -> dict[str, Tensor]:
        model = defense.wrap(net(), 0, SHAPE)
        return train(model, *problem(), recipe(epochs=2), seed=1, checkpoint_dir=directory,
                     defense=defense, on_epoch=on_epoch).last  # type: ignore[arg-type]  # fmt: skip

    def stop(record: object) -> None:
        raise KeyboardInterrupt

    expected = run(None)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, stop)
    assert same(run(tmp_path), expected)


def test_it_is_put_on_a_trained_network_without_training() -> None:
    defense = make_defense("sap")
    assert isinstance(defense, StochasticActivationPruning)
    assert (defense.starts_trained, defense.epochs, defense.base, defense.fraction) == (
        True,
        0,
        "adversarial",
        1.0,
    )


def test_wrong_values_are_named() -> None:
    with pytest.raises(InputError, match=r"fraction is 0\.0; expected a value in \(0, 1000\]"):
        make_defense("sap", fraction=0.0)
    with pytest.raises(InputError, match="unknown base"):
        make_defense("sap", base="trades")
    with pytest.raises(InputError, match=r"no nn\.ReLU"):
        StochasticActivationPruning().wrap(nn.Sequential(nn.Conv2d(3, 4, 3)), 0, SHAPE)
