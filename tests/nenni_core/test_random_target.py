"""The control: the same noise in as many neurons, drawn uniformly instead of chosen."""

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor, nn
from training_problem import net

from nenni_core import Injection, InputError, bitops, held_noise, inject, masks, set_injection, set_noise
from nenni_core.layers import NoisyConv2d
from nenni_core.randomness import noise_streams


def layer(**fields: object) -> NoisyConv2d:
    dense = nn.Conv2d(3, 6, 3, padding=1)
    with torch.no_grad():
        for parameter in dense.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return NoisyConv2d(dense, Injection(**({"ratio": 0.75, "target": "random"} | fields)), "conv")


def noisy_neurons(noisy: NoisyConv2d, x: Tensor) -> Tensor:
    """True where the output is the approximation's, and not the precise one's."""
    with torch.no_grad():
        output, precise, approximate = noisy(x), noisy.precise(x), noisy.approximate(x)
    assert bool(((output == precise) | (output == approximate)).all())
    return output == approximate


@pytest.mark.parametrize(
    ("rule", "kept"), [({"ratio": 0.75}, 24), ({"ratio": None, "pattern": "2:3"}, 32), ({"ratio": 0.99}, 1)]
)
def test_as_many_neurons_as_configured_get_noise_in_each_image(rule: dict, kept: int) -> None:
    x = torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    noisy = noisy_neurons(layer(**rule), x)
    assert ((~noisy).flatten(1).sum(1) == kept).all()
    assert len({tuple(row.flatten().tolist()) for row in noisy}) > 4  # each image has its own
    if "pattern" in rule:
        groups = noisy.movedim(1, -1).reshape(-1, 3).sum(1)
        assert (groups == 2).all()


def test_every_neuron_is_equally_likely_whatever_its_size() -> None:
    x = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(2)).expand(400, -1, -1, -1)
    counts = noisy_neurons(layer(), x).sum(0).flatten()
    assert chisquare(counts.numpy()).pvalue > 1e-3
    # the rule of the method does not pass: it keeps the same large ones each time
    chosen = noisy_neurons(layer(target="non_essential"), x).sum(0).flatten()
    assert chisquare(chosen.numpy()).pvalue < 1e-6


def test_draws_are_fresh_reproducible_and_held() -> None:
    x = torch.rand(4, 3, 10, 10, generator=torch.Generator().manual_seed(2))
    model = inject(net(), Injection(ratio=0.5, target="random")).eval()
    set_noise(model, "inference", 7)
    first, second = model(x), model(x)
    assert not torch.equal(first, second)
    set_noise(model, "inference", 7)
    assert torch.equal(model(x), first)
    with held_noise(model):
        whole = model(x)
        torch.testing.assert_close(model(x[1:3]), whole[1:3])


@pytest.mark.parametrize("randomize", ["fixed", "bank"])
def test_a_network_becomes_random_and_deterministic_again(randomize: str) -> None:
    x = torch.rand(4, 3, 10, 10, generator=torch.Generator().manual_seed(2))
    model = inject(net(), Injection(ratio=0.5, randomize=randomize)).eval()
    set_injection(model, target="random")
    assert len(noise_streams(model)) == 1
    with held_noise(model):  # which neurons, and of which projection, are two draws
        assert torch.equal(model(x), model(x))
    set_injection(model, target="non_essential")
    assert len(noise_streams(model)) == (randomize == "bank")
    if randomize == "fixed":
        assert torch.equal(model(x), model(x))


def test_masks_and_costs_are_those_of_the_method_but_for_the_draws() -> None:
    x = torch.rand(4, 3, 10, 10, generator=torch.Generator().manual_seed(2))
    control, method = (
        inject(net(), Injection(ratio=0.9, target=target)).eval() for target in ("random", "non_essential")
    )
    for name, mask in masks(control, x).items():
        assert torch.equal(mask.flatten(1).sum(1), masks(method, x)[name].flatten(1).sum(1))
    drawn, chosen = (bitops(model, (3, 10, 10)) for model in (control, method))
    outputs = sum(layer.outputs for layer in chosen.layers)
    assert drawn.total == pytest.approx(chosen.total + 16 * outputs)  # one uniform number each


def test_a_threshold_cannot_draw() -> None:
    with pytest.raises(InputError, match="target 'random' has no scores to put a threshold on"):
        Injection(ratio=0.5, target="random", selection="threshold")
