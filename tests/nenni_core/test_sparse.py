"""Sparse networks: exact counts, the masks' rules by hand, who gets a gradient, and what sparsity 0 is."""

from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from training_problem import SIZE, net, problem, recipe, same

from nenni_core import Injection, InputError, bitops, inject
from nenni_core.defenses import DEFENSES, StepContext, make_defense
from nenni_core.defenses.sparse import (
    Pruned,
    Sparse,
    bake,
    chosen_masks,
    largest_by_sorting,
    operate,
    pruned_layers,
)
from nenni_core.inject import injected_layers
from nenni_core.models import build_model
from nenni_core.randomness import make_generator
from nenni_core.selection import largest_per_row
from nenni_core.training import TrainingResult, train

SHAPE = (3, SIZE, SIZE)


def small() -> nn.Module:
    return build_model("small_resnet", num_classes=4, image_size=16)


def images(count: int = 3, size: int = 16) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def context(position: float, *, epochs: int = 4, after_step: ExitStack | None = None) -> StepContext:
    return StepContext(
        eps=8 / 255,
        step_size=2 / 255,
        steps=1,
        generator=make_generator(0, "attack"),
        position=position,
        epochs=epochs,
        after_step=after_step or ExitStack(),
    )


def row(values: list[float], mask: list[int] | None = None, *, straight_through: bool = True) -> Pruned:
    """A 1x1 convolution to one channel with these weights."""
    layer = nn.utils.skip_init(nn.Conv2d, len(values), 1, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(values).view(1, -1, 1, 1))
    pruned = Pruned(layer, straight_through=straight_through, seed=0)
    if mask is not None:
        pruned.mask.copy_(torch.tensor(mask, dtype=torch.bool).view(1, -1, 1, 1))
    return pruned


def flat(masks: list[Tensor]) -> list[int]:
    return torch.cat([mask.flatten() for mask in masks]).int().tolist()


@pytest.mark.parametrize("method", ["magnitude", "surgery"])
@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_exactly_the_smallest_weights_of_the_network_are_cut_off(method: str, sparsity: float) -> None:
    weights = [m.weight.detach().clone() for m in small().modules() if isinstance(m, nn.Conv2d)]
    magnitudes = torch.cat([weight.flatten() for weight in weights]).abs()
    layers = pruned_layers(Sparse(method=method, sparsity=sparsity).wrap(small(), 0, SHAPE))
    masks = torch.cat([layer.mask.flatten() for layer in layers])
    assert int((~masks).sum()) == round(sparsity * len(magnitudes))
    if not masks.all():
        assert magnitudes[~masks].max() <= magnitudes[masks].min()
    for layer, weight in zip(layers, weights, strict=True):
        assert torch.equal(layer.masked_weight(), torch.where(layer.mask, weight, 0.0))


def test_one_threshold_serves_all_layers() -> None:
    model = nn.Sequential(row([1.0, 2.0, 3.0]).layer, row([0.1, 0.2, 4.0, 0.3, 0.4]).layer)
    layers = pruned_layers(Sparse(sparsity=0.5).wrap(model, 0, SHAPE))
    assert flat([layer.mask for layer in layers]) == [1, 1, 1, 0, 0, 1, 0, 0]


def test_equal_weights_are_told_apart_by_their_index() -> None:
    assert flat(chosen_masks([row([1.0, -1.0, 1.0, 1.0])], 0.5)) == [1, 1, 0, 0]


@pytest.mark.parametrize(
    ("weights", "mask", "expected"),
    [
        ([1.0, 0.95, 1.05, 0.1], [1, 1, 0, 0], [1, 1, 0, 0]),  # 1.05 / 1.1 is not above 0.95 / 0.9
        ([1.0, 0.95, 1.15, 0.1], [1, 1, 0, 0], [1, 1, 0, 0]),  # 1.15 is above, but not by 11 / 9 = 1.222
        ([1.0, 0.95, 1.17, 0.1], [1, 1, 0, 0], [1, 0, 1, 0]),  # 0.95 * 11 / 9 = 1.161
        ([1.0, 0.95, -1.17, 0.1], [1, 1, 0, 0], [1, 0, 1, 0]),
        ([0.5, 0.6, 0.7, 0.8], [1, 1, 0, 0], [0, 1, 0, 1]),  # 0.8 * 9 / 11 = 0.655, 0.7 * 9 / 11 = 0.573
        ([0.5, 0.6, 0.7, 0.8], [1, 1, 1, 1], [0, 0, 1, 1]),  # all take part: plain magnitudes
    ],
)
def test_a_weight_has_to_exceed_the_threshold_by_a_margin_to_come_back(
    weights: list[float], mask: list[int], expected: list[int]
) -> None:
    layer = row(weights, mask)
    found = chosen_masks([layer], 0.5)
    assert flat(found) == expected
    # the rule of the paper, for t anywhere between the last score cut off and the first one kept
    magnitude = layer.weight.abs()
    lows = torch.where(layer.mask, magnitude / 0.9, magnitude / 1.1)
    t = lows[~found[0]].max() * (1 + 1e-6)
    by_rule = torch.where(layer.mask, magnitude > 0.9 * t, magnitude > 1.1 * t)
    assert torch.equal(found[0], by_rule)


def test_sorting_selects_what_partitioning_does() -> None:
    scores = torch.randint(0, 50, (1000,), generator=torch.Generator().manual_seed(0)).float()
    for keep in (0, 1, 333, 999, 1000):
        assert torch.equal(largest_by_sorting(scores, keep), largest_per_row(scores[None], keep)[0])


@pytest.mark.parametrize(("method", "reached"), [("magnitude", False), ("surgery", True)])
def test_only_surgery_gives_cut_off_weights_a_gradient(method: str, reached: bool) -> None:
    """At the masked weights: with surgery that of the masked weights themselves, else times the mask."""
    model = Sparse(method=method, sparsity=0.7).wrap(small(), 0, SHAPE).eval()
    model(images()).square().sum().backward()
    plain = bake(model)
    plain.zero_grad()
    plain(images()).square().sum().backward()
    for layer, convolution in zip(
        pruned_layers(model), [m for m in plain.modules() if isinstance(m, nn.Conv2d)], strict=True
    ):
        full = convolution.weight.grad
        assert full is not None
        expected = full if reached else full * layer.mask
        assert torch.equal(layer.weight.grad, expected)
        assert full[~layer.mask].abs().max() > 0


def test_a_planted_weight_comes_back() -> None:
    defense = Sparse(method="surgery", sparsity=0.5, base="clean", epochs=4)
    model = defense.wrap(net(), 0, SHAPE)
    layer = pruned_layers(model)[0]
    place = tuple((~layer.mask).nonzero()[0])
    with torch.no_grad():
        layer.weight[place] = 5.0
    x, y = images(4, 10), torch.arange(4)
    defense.step(model, x, y, context(0.0))
    assert layer.mask[place]
    with torch.no_grad():
        layer.weight[place] = 0.0
    defense.step(model, x, y, context(0.5))
    assert not layer.mask[place]


def test_masks_are_fixed_and_their_zeros_real_after_the_surgery() -> None:
    defense = Sparse(method="surgery", sparsity=0.5, base="clean", epochs=4, surgery_share=0.5)
    model = defense.wrap(net(), 0, SHAPE)
    layer = pruned_layers(model)[0]
    before = layer.mask.clone()
    with torch.no_grad():
        layer.weight[~layer.mask] = 5.0
    with ExitStack() as after_step:
        given = context(2.0, after_step=after_step)
        defense.maintain(model, given)
        defense.step(model, images(4, 10), torch.arange(4), given)
        assert (layer.weight[~layer.mask] == 5).all()  # the optimiser has not stepped yet
    assert torch.equal(layer.mask, before)
    assert (layer.weight[~before] == 0).all()
    assert int(layer.iteration) == 0


def test_updates_have_the_published_probability() -> None:
    """At iteration 30 000 it is 1 / (1 + 3) = 1/4; the draw is one for all layers, from seed and position."""
    count = 2000
    updated = []
    for position in range(count):
        layers = [row([1.0, 2.0], [1, 0]), row([1.0, 2.0], [1, 0])]
        for layer in layers:
            layer.iteration.fill_(30_000)
        operate(layers, 0.5, position / 7)
        states = {tuple(flat([layer.mask])) for layer in layers}
        assert len(states) == 1
        updated.append(states == {(0, 1)})
    deviation = (count * 0.25 * 0.75) ** 0.5
    assert abs(sum(updated) - count * 0.25) < 4 * deviation
    assert int(layers[0].iteration) == 30_001


def test_the_first_iteration_always_updates() -> None:
    for position in range(50):
        layer = row([1.0, 2.0], [1, 0])
        operate([layer], 0.5, float(position))
        assert flat([layer.mask]) == [0, 1]


def fit(defense: Sparse | None, kind: str, directory: Path | None = None) -> TrainingResult:
    model = net() if defense is None else defense.wrap(net(), 0, SHAPE)
    trained_by = make_defense(kind) if defense is None else defense
    given = recipe(learning_rate=0.2)  # so high that surgery changes masks in its few steps
    return train(model, *problem(), given, seed=3, checkpoint_dir=directory, defense=trained_by)


def plain_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    names = {name: name.replace("layer.", "") for name in state}
    return {names[n]: t for n, t in state.items() if not n.endswith((".mask", ".iteration"))}


@pytest.mark.parametrize("method", ["magnitude", "surgery"])
@pytest.mark.parametrize("base", ["clean", "adversarial"])
def test_sparsity_zero_trains_as_the_dense_network_to_the_bit(method: str, base: str) -> None:
    sparse, dense = fit(Sparse(method=method, sparsity=0.0, base=base), base), fit(None, base)
    assert same(plain_names(sparse.last), dense.last)
    assert same(plain_names(sparse.best), dense.best)
    assert sparse.history == dense.history


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("method", ["magnitude", "surgery"])
def test_sparsity_zero_is_the_dense_network_to_the_bit(method: str, layout: torch.memory_format) -> None:
    x = images().contiguous(memory_format=layout)
    model = small().to(memory_format=layout).eval()
    expected = model(x)
    wrapped = Sparse(method=method, sparsity=0.0).wrap(model, 0, SHAPE)
    assert torch.equal(wrapped(x), expected)
    for layer in pruned_layers(wrapped):
        assert layer.masked_weight().stride() == layer.weight.stride()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(wrapped(x), small().to(memory_format=layout).eval()(x))


@pytest.mark.parametrize("method", ["magnitude", "surgery"])
def test_training_keeps_the_sparsity(method: str) -> None:
    defense = Sparse(method=method, sparsity=0.8, base="clean")
    result = fit(defense, "clean")
    for state in (result.best, result.last):
        masks = torch.cat([tensor.flatten() for name, tensor in state.items() if name.endswith(".mask")])
        assert int((~masks).sum()) == round(0.8 * len(masks))
    for name in ("0", "3"):
        assert (result.last[f"{name}.layer.weight"][~result.last[f"{name}.mask"]] == 0).all()
    start = pruned_layers(defense.wrap(net(), 0, SHAPE))
    stayed = [torch.equal(result.last[f"{n}.mask"], p.mask) for n, p in zip(("0", "3"), start, strict=True)]
    assert all(stayed) == (method == "magnitude")


@pytest.mark.parametrize("method", ["magnitude", "surgery"])
def test_a_restarted_run_ends_in_the_same_bits(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    defense = Sparse(method=method, sparsity=0.6, base="clean", surgery_share=0.8)
    expected = fit(defense, "clean")

    def stop(record: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(defense.wrap(net(), 0, SHAPE), *problem(), recipe(learning_rate=0.2), seed=3,
              checkpoint_dir=tmp_path, defense=defense, on_epoch=stop)  # fmt: skip
    resumed = fit(defense, "clean", tmp_path)
    assert same(resumed.last, expected.last)
    assert same(resumed.best, expected.best)


@pytest.mark.parametrize("method", ["magnitude", "surgery"])
def test_baked_weights_give_the_same_bits(method: str) -> None:
    model = Sparse(method=method, sparsity=0.6).wrap(small(), 0, SHAPE).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    baked = bake(model)
    assert torch.equal(baked(images()), model(images()))
    assert same(model.state_dict(), before)
    assert baked.state_dict().keys() == small().state_dict().keys()
    weights = torch.cat([m.weight.flatten() for m in baked.modules() if isinstance(m, nn.Conv2d)])
    assert int((weights == 0).sum()) == round(0.6 * len(weights))


@pytest.mark.parametrize("sparsity", [0.0, 0.25, 0.75])
def test_only_weights_that_take_part_are_multiplied_by(sparsity: float) -> None:
    model = Sparse(sparsity=sparsity).wrap(small(), 0, SHAPE).eval()
    cost, dense = bitops(model, (3, 16, 16)), bitops(small().eval(), (3, 16, 16))
    densities = [layer.mask.float().mean().item() for layer in pruned_layers(model)]
    assert cost.dense == dense.dense
    for density, ours, theirs in zip(densities, cost.layers, dense.layers, strict=True):
        assert ours.precise == pytest.approx(density * theirs.precise)
    assert cost.noise == 0


def test_noise_can_be_injected_on_top() -> None:
    """The approximation starts as that of the sparse weights; essential outputs are the sparse network's."""
    model = Sparse(sparsity=0.6).wrap(small(), 0, SHAPE).eval()
    noisy = inject(model, Injection(ratio=0.5))
    layers = injected_layers(noisy)
    assert len(layers) == len(pruned_layers(model)) == 9
    assert all(isinstance(noisy.get_submodule(name.removesuffix(".layer")), Pruned) for name in layers)
    baked = inject(bake(model), Injection(ratio=0.5))
    for ours, theirs in zip(layers.values(), injected_layers(baked).values(), strict=True):
        theirs.signs.copy_(ours.signs)
        theirs.approx_weight.data.copy_(ours.approx_weight.data)
        theirs.refit_exponents()
    assert torch.equal(noisy(images()), baked(images()))
    assert not torch.equal(noisy(images()), model(images()))
    half, whole = bitops(noisy, (3, 16, 16)), bitops(baked, (3, 16, 16))
    density = pruned_layers(model)[0].weight_density()
    assert half.layers[0].precise == pytest.approx(density * whole.layers[0].precise)
    assert half.layers[0].approximate == whole.layers[0].approximate


def test_an_empty_batch_passes() -> None:
    assert Sparse().wrap(small(), 0, SHAPE).eval()(images(0)).shape == (0, 4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sparsity": 1.0}, r"sparsity is 1\.0; expected a value in \[0, 1\)"),
        ({"sparsity": -0.1}, "sparsity"),
        ({"surgery_share": 1.5}, "surgery_share"),
        ({"method": "surgry"}, "unknown method 'surgry'; did you mean 'surgery'"),
        ({"base": "cleen"}, "unknown base 'cleen'; did you mean 'clean'"),
        ({"epochs": -1}, "epochs"),
        ({"method": "surgery", "epochs": 0}, "epochs"),
        ({"learning_rate": 0.0}, "learning_rate"),
    ],
)
def test_a_wrong_setting_is_named(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_defense("sparse", **settings)


def test_a_network_that_cannot_be_pruned_is_refused() -> None:
    with pytest.raises(InputError, match=r"no nn\.Conv2d layer to prune"):
        Sparse().wrap(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), 0, SHAPE)
    with pytest.raises(InputError, match="pruned already"):
        Sparse().wrap(Sparse().wrap(small(), 0, SHAPE), 0, SHAPE)


def test_it_wants_a_trained_network() -> None:
    assert DEFENSES["sparse"] is Sparse
    assert Sparse.starts_trained
    assert (Sparse(base="clean").select_by, Sparse().select_by) == ("clean", "robust")
