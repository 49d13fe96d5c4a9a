"""Injecting into models of any origin, and the errors for those that cannot be."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from nenni_core import (
    Injection,
    InputError,
    calibrate,
    dense_mode,
    distill,
    inject,
    injected_layers,
    set_injection,
)
from nenni_core.layers import NoisyConv2d, NoisyLinear


class Block(nn.Module):
    """Someone's network: nested, with a layer that is used twice and normalisation in between."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6))
        self.body = nn.ModuleDict({"conv": nn.Conv2d(6, 6, 3, padding=1, bias=False)})
        self.again = self.body["conv"]
        self.head = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(self.body["conv"](x))
        x = torch.relu(self.again(x))
        return self.head(x.mean((2, 3)))


@pytest.fixture
def model() -> Block:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Block().eval()


X = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_ratio_zero_equals_the_dense_model_exactly(model: Block) -> None:
    injected = inject(model, Injection(ratio=0.0))
    assert torch.equal(injected(X), model(X))
    set_injection(injected, ratio=0.9)
    assert not torch.equal(injected(X), model(X))
    with dense_mode(injected):
        assert torch.equal(injected(X), model(X))


def test_the_users_model_is_left_alone(model: Block) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    injected = inject(model, Injection())
    with torch.no_grad():
        for parameter in injected.parameters():
            parameter.add_(1)
    assert not injected_layers(model)
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_parameters_keep_their_names(model: Block) -> None:
    injected = inject(model, Injection())
    result = injected.load_state_dict(model.state_dict(), strict=False)
    assert result.unexpected_keys == []
    assert {key.rsplit(".", 1)[1] for key in result.missing_keys} == {
        *("approx_weight", "approx_bias", "signs", "threshold"),
        *("weight_exponent", "bias_exponent", "projected_exponent"),
    }


def test_a_layer_used_twice_stays_one_layer(model: Block) -> None:
    injected = inject(model, Injection())
    assert injected.again is injected.body["conv"]  # type: ignore[union-attr, index]
    assert [type(layer) for layer in injected_layers(injected).values()] == [NoisyConv2d, NoisyConv2d]


def test_linear_layers_and_exceptions_are_chosen_by_argument(model: Block) -> None:
    injected = inject(model, Injection(), linear=True, skip=["stem.0"])
    assert {name: type(layer) for name, layer in injected_layers(injected).items()} == {
        "body.conv": NoisyConv2d,
        "head": NoisyLinear,
    }


def test_train_and_eval_mode_are_kept(model: Block) -> None:
    model.stem.train()
    injected = inject(model, Injection())
    modes = {name: module.training for name, module in injected.named_modules()}
    assert modes == {name: module.training for name, module in model.named_modules()}


def test_the_same_seed_builds_the_same_model_and_the_state_rebuilds_it(model: Block) -> None:
    first, second = (inject(model, Injection(seed=3)) for _ in range(2))
    other = inject(model, Injection(seed=4))
    assert torch.equal(first(X), second(X))
    assert not torch.equal(first(X), other(X))
    other.load_state_dict(first.state_dict())
    assert torch.equal(first(X), other(X))


def test_a_saved_state_and_its_settings_rebuild_the_model(model: Block, tmp_path: Path) -> None:
    injection = Injection(
        ratio=0.7, bits=6, projection_ratio=0.5, scale="per_channel", selection="threshold", seed=3
    )
    noisy = inject(model, injection, skip=["stem.0"])
    distill(noisy, [X])
    calibrate(noisy, [X])
    state = {name: value.clone() for name, value in noisy.state_dict().items()}  # shared layers apart
    save_file(state, tmp_path / "weights.safetensors")
    (tmp_path / "injection.json").write_text(json.dumps(asdict(injection)))

    settings = Injection(**json.loads((tmp_path / "injection.json").read_text()))
    rebuilt = inject(Block(), settings, skip=["stem.0"]).eval()
    rebuilt.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    assert torch.equal(rebuilt(X), noisy(X))


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"projection_ratio": 0.5}, "another projection_ratio"),
        ({"randomize": "bank", "bank_size": 2}, "randomize or bank_size"),
        ({"scale": "per_channel"}, "another scale"),
    ],
)
def test_a_state_of_other_settings_is_refused_by_their_name(model: Block, other: dict, named: str) -> None:
    state = inject(model, Injection(**other)).state_dict()
    with pytest.raises(InputError, match=f"layer 'stem.0' .*{named}"):
        inject(model, Injection()).load_state_dict(state)


def test_global_randomness_is_not_touched(model: Block) -> None:
    state = torch.get_rng_state()
    inject(model, Injection(randomize="stochastic_rounding"))(X)
    assert torch.equal(torch.get_rng_state(), state)


def test_ratio_and_pattern_replace_each_other(model: Block) -> None:
    injected = inject(model, Injection(ratio=0.9))
    set_injection(injected, pattern="7:8")
    assert {
        (layer.injection.ratio, layer.injection.pattern) for layer in injected_layers(injected).values()
    } == {(None, "7:8")}
    set_injection(injected, ratio=0.5)
    assert {
        (layer.injection.ratio, layer.injection.pattern) for layer in injected_layers(injected).values()
    } == {(0.5, None)}


class OwnConvolution(nn.Conv2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x * 2)


def hooked() -> nn.Module:
    layer = nn.Conv2d(3, 3, 3)
    layer.register_forward_hook(lambda module, inputs, output: output * 0)
    return layer


def test_a_layer_twice_in_one_parent_is_injected_in_both_places() -> None:
    shared = nn.Conv2d(3, 3, 3, padding=1)
    injected = inject(nn.Sequential(shared, nn.ReLU(), shared), Injection())
    assert injected[0] is injected[2]
    assert isinstance(injected[0], NoisyConv2d)


def test_skipping_a_module_skips_all_its_layers(model: Block) -> None:
    assert list(injected_layers(inject(model, Injection(), skip=["stem"]))) == ["body.conv"]


def test_attention_that_would_go_past_its_linear_layers_is_refused() -> None:
    with pytest.raises(InputError, match="fused path goes past the linear layers"):
        inject(nn.Sequential(nn.TransformerEncoderLayer(8, 2)), Injection(), linear=True)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: nn.Linear(3, 3), "Linear has no nn.Conv2d layer"),
        (lambda: nn.Sequential(nn.Conv1d(3, 3, 3)), r"layer '0' \(Conv1d\) cannot be injected: only two-dim"),
        (
            lambda: nn.Sequential(OwnConvolution(3, 3, 3)),
            r"layer '0' \(OwnConvolution\).*not that of the plain",
        ),
        (lambda: nn.Sequential(weight_norm(nn.Conv2d(3, 3, 3))), "computed from other parameters"),
        (lambda: nn.Sequential(nn.utils.spectral_norm(nn.Conv2d(3, 3, 3))), "it has hooks"),
        (lambda: nn.Sequential(nn.LazyConv2d(3, 3)), r"\(LazyConv2d\).*run the model on one batch first"),
        (lambda: nn.Sequential(hooked()), "it has hooks, which the injected layer would not call"),
        (lambda: inject(nn.Conv2d(3, 3, 3), Injection()), "has noise already"),
    ],
)
def test_what_cannot_be_injected_is_named(build, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match=message):
        inject(build(), Injection())


def test_wrong_names_are_answered_with_the_nearest(model: Block) -> None:
    with pytest.raises(InputError, match=r"unknown layer to skip 'stem.00'; did you mean 'stem.0'"):
        inject(model, Injection(), skip=["stem.00"])
    with pytest.raises(InputError, match="unknown injection field 'ration'; did you mean 'ratio'"):
        set_injection(inject(model, Injection()), ration=0.5)
    with pytest.raises(InputError, match="'bits' is fixed when the approximation is built"):
        set_injection(inject(model, Injection()), bits=8)
    with pytest.raises(InputError, match="Block has no injected layers"):
        set_injection(model, ratio=0.5)


def test_wrong_configurations_name_the_value_and_what_was_expected() -> None:
    """In a process of its own: the suite's type checks would see some of these values first."""
    cases = {
        "ratio=1.5": "ratio 1.5 is outside [0, 1]",
        'ratio=0.5, pattern="1:2"': "either a ratio or a pattern",
        "ratio=None": "either a ratio or a pattern",
        'ratio=None, pattern="8"': "pattern '8' is not of the form 'N:M'",
        'ratio=None, pattern="9:8"': "pattern '9:8' asks for noise in 9 of 8",
        'ratio=None, pattern="4:8", selection="threshold"': "no groups to keep the pattern '4:8'",
        'selection="topk"': "unknown selection 'topk'; did you mean 'top_k'?",
        'randomize="banks"': "did you mean 'bank'?",
        "projection_ratio=0.0": "projection_ratio 0.0 is outside (0, 1]",
        "bits=4.5": "bits 4.5 is a float, expected a whole number",
        'ratio="0.9"': "ratio '0.9' is a str, expected a number",
        "bits=1": "bits 1 is outside 2..16",
        "bank_size=0": "bank_size 0 is less than 1",
    }
    program = "from nenni_core import Injection, InputError\n" + "".join(
        f"try: Injection({arguments})\nexcept InputError as error: print(error)\n" for arguments in cases
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    lines = run.stdout.splitlines()
    assert len(lines) == len(cases)
    for line, expected in zip(lines, cases.values(), strict=True):
        assert expected in line
