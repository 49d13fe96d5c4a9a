"""Random streams are separate, repeatable and can be saved."""

import torch
from torch import nn

from nenni_core import Injection, inject, set_noise
from nenni_core.randomness import derive_seed, load_noise_state, make_generator, noise_state, noise_streams


def test_names_separate_streams_and_cannot_be_confused() -> None:
    seeds = [
        derive_seed(0, "ab"),
        derive_seed(0, "a", "b"),
        derive_seed(1, "ab"),
        derive_seed(0),
        derive_seed(0, ""),
    ]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(0, "ab") == seeds[0]


def test_generators_of_equal_names_draw_the_same() -> None:
    draws = [torch.rand(5, generator=make_generator(7, "crop")) for _ in range(2)]
    assert torch.equal(*draws)


def test_the_layers_of_a_model_share_one_stream() -> None:
    model = inject(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)), Injection(randomize="bank"))
    assert len(noise_streams(model)) == 1
    assert noise_streams(inject(nn.Conv2d(3, 4, 3), Injection())) == []


def test_a_saved_state_continues_the_noise() -> None:
    model = inject(nn.Conv2d(3, 4, 3), Injection(randomize="stochastic_rounding"))
    set_noise(model, "training", 0)
    x = torch.ones(1, 3, 5, 5)
    model(x)
    saved = noise_state(model)
    expected = [model(x) for _ in range(3)]
    set_noise(model, "training", 99)
    load_noise_state(model, saved)
    assert all(torch.equal(model(x), value) for value in expected)
