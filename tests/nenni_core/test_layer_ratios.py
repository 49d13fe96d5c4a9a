"""Ratios of single layers: what each layer does is what it does in a network with that ratio everywhere."""

from collections.abc import Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nenni_core import (
    Injection,
    InputError,
    bitops,
    calibrate,
    inject,
    injectable_layers,
    injected_layers,
    mask_densities,
    masks,
    set_injection,
    set_layer_ratios,
)

SHAPE = (3, 8, 8)
X = torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(0))
RATIOS = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 0.99, 1.0])
LAYERS = ("0", "2", "4")


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 10, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(10, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 4, 1),
        ).eval()


NOISY = inject(network(), Injection())


def by_layer(ratios: Mapping[str, float]) -> nn.Module:
    return set_layer_ratios(set_injection(NOISY, pattern="1:2"), ratios)


@given(RATIOS)
def test_the_same_ratio_in_every_layer_is_that_ratio(ratio: float) -> None:
    uniform = set_injection(NOISY, ratio=ratio)
    expected, marked, cost = uniform(X), masks(uniform, X), bitops(uniform, SHAPE)
    separate = by_layer(dict.fromkeys(LAYERS, ratio))
    assert torch.equal(separate(X), expected)
    found = masks(separate, X)
    assert list(found) == list(marked)
    assert all(torch.equal(found[name], mask) for name, mask in marked.items())
    assert bitops(separate, SHAPE) == cost


@settings(max_examples=30)
@given(st.tuples(RATIOS, RATIOS, RATIOS))
def test_each_layer_costs_and_keeps_what_its_own_ratio_says(ratios: tuple[float, ...]) -> None:
    own = dict(zip(LAYERS, ratios, strict=True))
    found = by_layer(own)
    cost, densities = bitops(found, SHAPE), mask_densities(found, [X])
    outputs = {layer.name: layer.outputs for layer in cost.layers}
    for name, ratio in own.items():
        kept = Injection(ratio=ratio).kept(outputs[name])
        assert densities[name] == kept / outputs[name]
    measured = bitops(found, SHAPE, densities)
    for place, (name, ratio) in enumerate(own.items()):
        uniform = set_injection(NOISY, ratio=ratio)
        assert bitops(uniform, SHAPE).layers[place] == cost.layers[place]
        alone = bitops(uniform, SHAPE, {name: densities[name]}).layers[place]
        assert measured.layers[place] == alone
        assert (alone.total == alone.dense) == (ratio == 0)  # nothing predicts where nothing is chosen
    assert cost.total == sum(layer.total for layer in cost.layers)


def test_layers_that_are_not_named_keep_their_rule() -> None:
    found = set_layer_ratios(set_injection(NOISY, ratio=0.5), {"2": 0.75})
    assert [layer.injection.ratio for layer in injected_layers(found).values()] == [0.5, 0.75, 0.5]
    found = set_layer_ratios(set_injection(NOISY, pattern="7:8"), {"0": 0.75})
    assert [layer.injection.pattern for layer in injected_layers(found).values()] == [None, "7:8", "7:8"]


def test_thresholds_are_calibrated_layer_by_layer() -> None:
    ratios = {"0": 0.25, "2": 0.75, "4": 0.0}
    found = inject(network(), Injection(selection="threshold"))
    calibrate(set_layer_ratios(found, ratios), [X])
    for name, density in mask_densities(found, [X]).items():
        assert density == pytest.approx(1 - ratios[name], abs=0.02)
    set_layer_ratios(found, {"2": 0.5})
    with pytest.raises(InputError, match="layer '2' has no threshold for this ratio"):
        found(X)


def test_a_state_and_its_ratios_rebuild_the_network() -> None:
    ratios = {"0": 0.9, "2": 0.1, "4": 0.5}
    found = by_layer(ratios)
    again = set_layer_ratios(inject(network(), Injection(seed=1)), ratios)
    again.load_state_dict(found.state_dict())
    assert torch.equal(again(X), found(X))


@pytest.mark.parametrize(
    ("ratios", "message"),
    [
        ({"2": 0.1, "22": 0.5}, "unknown layer '22'; did you mean '2'"),
        ({"2": 0.1, "4": 1.5}, r"layer '4': ratio 1.5 is outside \[0, 1\]"),
    ],
)
def test_a_mistake_is_named_and_changes_nothing(ratios: dict[str, float], message: str) -> None:
    found = set_injection(NOISY, ratio=0.5)
    with pytest.raises(InputError, match=message):
        set_layer_ratios(found, ratios)
    assert {layer.injection.ratio for layer in injected_layers(found).values()} == {0.5}


def test_a_plain_network_has_no_layers_to_set() -> None:
    with pytest.raises(InputError, match="Sequential has no injected layers"):
        set_layer_ratios(network(), {"0": 0.5})


def test_names_are_known_before_there_is_noise() -> None:
    assert tuple(injectable_layers(network())) == LAYERS == tuple(injected_layers(NOISY))
    assert injectable_layers(network(), skip=["2"]) == ["0", "4"]
