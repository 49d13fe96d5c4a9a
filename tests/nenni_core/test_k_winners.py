"""k-winners-take-all: winners by hand, exact counts, the gradient, and which activations are replaced."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from training_problem import problem, recipe, same

from nenni_core import InputError, bitops
from nenni_core.bitops import ADDITION
from nenni_core.defenses import make_defense
from nenni_core.defenses.k_winners import KWinners, KWinnersTakeAll
from nenni_core.models import build_model
from nenni_core.training import train

SHAPE = (3, 16, 16)


def values(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def small(image_size: int = 16) -> nn.Module:
    return build_model("small_resnet", num_classes=4, image_size=image_size)


@pytest.mark.parametrize(
    ("x", "ratio", "expected"),
    [
        ([3.0, -1.0, 2.0, -9.0], 0.5, [3.0, 0.0, 2.0, 0.0]),  # the largest, not those of largest magnitude
        ([-3.0, -1.0, -2.0, -9.0], 0.5, [0.0, -1.0, -2.0, 0.0]),  # negative winners stay negative
        ([3.0, 1.0, 2.0, 9.0], 0.7, [3.0, 0.0, 0.0, 9.0]),  # int(2.8) = 2
        ([3.0, 1.0, 2.0, 9.0], 0.01, [0.0, 0.0, 0.0, 9.0]),  # one at least
        ([1.0, 1.0, 1.0, 1.0], 0.5, [1.0, 1.0, 0.0, 0.0]),  # ties: the lower index
    ],
)
def test_winners_by_hand(x: list[float], ratio: float, expected: list[float]) -> None:
    given = torch.tensor(x).view(1, 4, 1, 1)
    assert torch.equal(KWinners(ratio)(given), torch.tensor(expected).view(1, 4, 1, 1))


def test_channels_and_positions_compete_within_each_sample() -> None:
    x = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]], [[[40.0, 30.0]], [[20.0, 10.0]]]])
    expected = torch.tensor([[[[0.0, 0.0]], [[3.0, 4.0]]], [[[40.0, 30.0]], [[0.0, 0.0]]]])
    assert torch.equal(KWinners(0.5)(x), expected)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("ratio", [0.02, 0.1, 0.55])
def test_they_are_those_of_topk(ratio: float, dtype: torch.dtype, layout: torch.memory_format) -> None:
    x = values(5, 6, 7, 9).to(dtype).contiguous(memory_format=layout)
    found = KWinners(ratio)(x)
    assert found.dtype == dtype
    assert found.is_contiguous(memory_format=layout)
    keep = int(ratio * 6 * 7 * 9)
    assert (found != 0).sum(dim=(1, 2, 3)).tolist() == [keep] * 5
    assert torch.equal(
        found.flatten(1).sort(descending=True).values[:, : keep // 2],
        x.flatten(1).topk(keep // 2).values,
    )
    assert torch.equal(found[found != 0], x[found != 0])
    assert torch.equal(found, KWinners(ratio)(x.contiguous()))


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=40), st.floats(0.01, 1.0))
def test_exactly_k_are_kept_whatever_ties_there_are(x: list[int], ratio: float) -> None:
    activations = torch.tensor(x, dtype=torch.float32).view(1, -1, 1, 1).requires_grad_()
    KWinners(ratio)(activations).sum().backward()
    assert activations.grad is not None
    assert int(activations.grad.sum()) == max(1, int(ratio * len(x)))  # the gradient marks the kept ones
    kept = activations.grad.bool()
    if not kept.all():
        assert activations[kept].min() >= activations[~kept].max()


def test_the_gradient_passes_where_a_value_is_kept() -> None:
    x = values(3, 4, 5, 5).requires_grad_()
    layer = KWinners(0.3)
    weights = values(3, 4, 5, 5, seed=1)
    (layer(x) * weights).sum().backward()
    assert torch.equal(x.grad, torch.where(layer(x) != 0, weights, 0.0))


def test_at_ratio_one_it_is_the_identity() -> None:
    x = values(2, 3, 4, 4)
    assert torch.equal(KWinners(1.0)(x), x)
    model = KWinnersTakeAll(ratio=1.0).wrap(small(), 0, SHAPE).eval()
    plain = small().eval()
    for block in plain.stages:
        block[0].relu1 = block[0].relu2 = nn.Identity()
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model(images), plain(images))


def test_a_sample_is_told_apart_alone() -> None:
    x = values(4, 3, 5, 5)
    layer = KWinners(0.2)
    assert torch.equal(layer(x)[1:3], layer(x[1:3]))
    assert layer(x[:0]).shape == (0, 3, 5, 5)


@pytest.mark.parametrize("name", ["small_resnet", "wrn34_10"])
def test_the_blocks_relus_are_replaced_and_only_these(name: str) -> None:
    model = KWinnersTakeAll(ratio=0.2).wrap(build_model(name, num_classes=4), 0, SHAPE)
    assert isinstance(model.relu, nn.ReLU)
    blocks = sum(type(m).__name__.endswith("Block") for m in model.modules())
    winners = [m for m in model.modules() if isinstance(m, KWinners)]
    assert len(winners) == 2 * blocks > 0
    assert {m.ratio for m in winners} == {0.2}
    assert sum(isinstance(m, nn.ReLU) for m in model.modules()) == 1


def test_each_activation_is_compared_once() -> None:
    plain = bitops(small().eval(), (3, 16, 16))
    cost = bitops(KWinnersTakeAll().wrap(small(), 0, SHAPE).eval(), (3, 16, 16))
    maps = 2 * (32 * 16 * 16 + 64 * 8 * 8 + 128 * 4 * 4)
    assert cost.noise == maps * ADDITION
    assert cost.total - cost.noise == plain.total


def test_it_trains_to_equal_bits() -> None:
    def run() -> dict[str, Tensor]:
        defense = KWinnersTakeAll(ratio=0.3, objective="clean")
        model = defense.wrap(small(10), 0, SHAPE)
        return train(model, *problem(), recipe(epochs=1), seed=0, checkpoint_dir=None, defense=defense).last

    first = run()
    assert same(first, run())
    assert first.keys() == small(10).state_dict().keys()


def test_wrong_values_are_named() -> None:
    for ratio in (0.0, 1.1, -0.5):
        with pytest.raises(InputError, match=r"ratio is .*; expected a value in \(0, 1\]"):
            make_defense("k_winners", ratio=ratio)
    with pytest.raises(InputError, match="objective"):
        make_defense("k_winners", objective="robust")
    with pytest.raises(InputError, match=r"no nn\.ReLU inside a block"):
        KWinnersTakeAll().wrap(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), 0, SHAPE)
