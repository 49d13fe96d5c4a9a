"""The networks: sizes counted by hooks, weights from the seed alone, normalisation first."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nenni_core.errors import InputError
from nenni_core.models import MODELS, build_model
from nenni_core.models.initialize import initialize_weights
from nenni_core.models.normalize import Normalize
from nenni_core.models.resnet import SMALLEST_MAP, small_strides
from nenni_core.models.wide_resnet import PreactivationBlock, WideResNet


def convolution_macs(model: nn.Module, channels: int, size: int) -> list[int]:
    """Multiply-accumulates of each convolution for one image, counted where the outputs are made."""
    macs: list[int] = []

    def count(module: nn.Conv2d, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        macs.append(output[0].numel() * module.weight[0].numel())

    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, nn.Conv2d)]
    # Shapes are all that is asked for: on the meta device the largest network costs nothing.
    model.to("meta").eval()(torch.empty(1, channels, size, size, device="meta"))
    for hook in hooks:
        hook.remove()
    return macs


@pytest.mark.parametrize(
    ("name", "convolutions", "macs"),
    [
        # He 2016: stem + 8 blocks of two + 3 shortcuts; 64*27*32^2 + ...
        ("resnet18", 20, 555_417_600),
        # Zagoruyko 2016: stem + 15 blocks of two + 3 shortcuts.
        ("wrn34_10", 34, 6_658_899_968),
        # Huang 2021: the same with 256 channels in place of 640 in the last stage.
        ("wrn34_r", 34, 4_796_628_992),
        ("small_resnet", 9, 12_279_808),
    ],
)
def test_sizes_at_32_pixels(name: str, convolutions: int, macs: int) -> None:
    counted = convolution_macs(build_model(name, num_classes=10), 3, 32)
    assert len(counted) == convolutions
    assert sum(counted) == macs


@pytest.mark.parametrize(("channels", "size", "millions"), [(3, 32, 12.3), (3, 16, 12.3), (1, 8, 5.8)])
def test_small_resnet_costs_what_its_docstring_says(channels: int, size: int, millions: float) -> None:
    model = build_model("small_resnet", num_classes=10, in_channels=channels, image_size=size)
    assert round(sum(convolution_macs(model, channels, size)) / 1e6, 1) == millions


def test_parameters_of_the_published_networks() -> None:
    # 11.17 M and 46.16 M: the sizes usually printed for CIFAR-10.
    count = {name: sum(p.numel() for p in build_model(name, num_classes=10).parameters()) for name in MODELS}
    assert count["resnet18"] == 11_173_962
    assert count["wrn34_10"] == 46_160_474


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("channels", "size", "classes"), [(1, 8, 10), (3, 9, 2), (2, 17, 5), (4, 64, 100)])
def test_any_images_and_classes(name: str, channels: int, size: int, classes: int) -> None:
    model = build_model(name, num_classes=classes, in_channels=channels, image_size=size)
    shape = model.to("meta")(torch.empty(2, channels, size, size, device="meta")).shape
    assert shape == (2, classes)


@given(size=st.integers(8, 64))
def test_small_resnet_keeps_enough_resolution(size: int) -> None:
    final = size
    for stride in small_strides(size, stages=3):
        assert stride in (1, 2)
        final = math.ceil(final / stride)
    assert SMALLEST_MAP <= final < 4 * SMALLEST_MAP


@pytest.mark.parametrize("name", ["resnet18", "small_resnet"])
def test_weights_are_the_seeds_and_nobody_elses(name: str) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = build_model(name, num_classes=10, seed=3)
    assert torch.equal(torch.get_rng_state(), before), "building a model moved the global generator"
    torch.manual_seed(2)
    second = build_model(name, num_classes=10, seed=3)
    other = build_model(name, num_classes=10, seed=4)

    for (key, a), b in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b), key
    different = [
        key
        for (key, a), b in zip(first.named_parameters(), other.parameters(), strict=True)
        if not torch.equal(a, b)
    ]
    weights = [key for key, parameter in first.named_parameters() if parameter.dim() > 1]
    assert different == weights  # all that is random, and nothing else


def test_first_weights_follow_he() -> None:
    model = build_model("resnet18", num_classes=10)
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() >= 36_864:
            fan_out = module.out_channels * math.prod(module.kernel_size)
            scaled = module.weight.detach().double() / math.sqrt(2 / fan_out)
            n = scaled.numel()
            # n draws of N(0, 1): mean and variance within five of their standard errors
            assert abs(scaled.mean().item()) < 5 / math.sqrt(n), name
            assert abs(scaled.var().item() - 1) < 5 * math.sqrt(2 / n), name
    assert torch.equal(model.classifier.bias, torch.zeros(10))


def test_streams_of_layers_are_apart() -> None:
    model = build_model("resnet18", num_classes=10)
    same_shape = [m.weight for m in model.stages[3].modules() if isinstance(m, nn.Conv2d)][-2:]
    assert same_shape[0].shape == same_shape[1].shape
    assert not torch.equal(*same_shape)


@pytest.mark.parametrize("name", ["resnet18", "small_resnet"])
def test_normalisation_is_inside_and_first(name: str) -> None:
    mean, std = (0.5, 0.25, 0.125), (0.25, 0.5, 0.125)  # powers of two: the arithmetic is exact
    options = {"num_classes": 10, "image_size": 8, "seed": 1}
    inside = build_model(name, mean=mean, std=std, **options).eval()
    plain = build_model(name, **options).eval()
    assert isinstance(next(iter(inside.children())), Normalize)
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    outside = (x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    with torch.no_grad():
        assert torch.equal(inside(x), plain(outside))
        assert not torch.equal(inside(x), plain(x))


@given(
    mean=st.lists(st.floats(0, 1, width=32), min_size=2, max_size=2),
    std=st.lists(st.floats(0.0625, 1, width=32), min_size=2, max_size=2),
)
@settings(max_examples=25, deadline=None)
def test_normalize_standardises_each_channel(mean: list[float], std: list[float]) -> None:
    x = torch.rand(3, 2, 4, 5, generator=torch.Generator().manual_seed(0))
    out = Normalize(2, mean, std)(x)
    for channel in range(2):
        torch.testing.assert_close(out[:, channel] * std[channel] + mean[channel], x[:, channel])
    assert torch.equal(Normalize(2)(x), x)


def test_mean_and_std_travel_with_the_weights() -> None:
    first = build_model("small_resnet", num_classes=3, in_channels=1, image_size=8, mean=[0.3], std=[0.4])
    second = build_model("small_resnet", num_classes=3, in_channels=1, image_size=8, seed=9)
    second.load_state_dict(first.state_dict())
    x = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(first.eval()(x), second.eval()(x))


def test_preactivation_block_passes_its_input_on_unchanged() -> None:
    block = PreactivationBlock(4, 4, 1).eval()
    nn.init.zeros_(block.conv2.weight)
    nn.init.ones_(block.conv1.weight)
    x = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    assert block.shortcut is None
    with torch.no_grad():
        assert torch.equal(block(x), x)  # negative values too: no activation on the identity path


def test_preactivation_shortcut_sees_the_first_activation() -> None:
    block = PreactivationBlock(2, 2, 2).eval()
    nn.init.zeros_(block.conv2.weight)
    nn.init.ones_(block.conv1.weight)
    assert block.shortcut is not None
    with torch.no_grad():
        block.shortcut.weight.copy_(torch.eye(2).view(2, 2, 1, 1))
        x = torch.randn(2, 2, 6, 6, generator=torch.Generator().manual_seed(0))
        expected = torch.relu(x / math.sqrt(1 + block.norm1.eps))[:, :, ::2, ::2]
        torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize("name", ["small_resnet", "wide"])
def test_every_parameter_learns(name: str) -> None:
    if name == "wide":  # WRN-34-10 is this class with 46 M parameters
        model: nn.Module = WideResNet(Normalize(1), in_channels=1, num_classes=3, depth=16, widths=(1, 1, 1))
        initialize_weights(model, 0)
    else:
        model = build_model(name, num_classes=3, in_channels=1, image_size=8)
    x = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    nn.functional.cross_entropy(model(x), torch.tensor([0, 1, 2, 0])).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.abs().sum() > 0, key


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "resnet81"}, r"unknown model 'resnet81'; did you mean 'resnet18'\?"),
        ({"num_classes": 1}, "num_classes is 1; expected 2 or more"),
        ({"in_channels": 0}, "in_channels is 0; expected 1 or more"),
        ({"image_size": 7}, "image_size is 7; expected 8 to 64 pixels"),
        ({"image_size": 65}, "image_size is 65; expected 8 to 64 pixels"),
        ({"mean": [0.5]}, "mean has 1 values; expected one per channel, that is 3"),
        ({"std": [0.5] * 4}, "std has 4 values; expected one per channel, that is 3"),
        ({"std": [0.5, 0.0, 0.5]}, "std contains 0.0; expected positive finite numbers"),
        ({"std": [0.5, -1.0, 0.5]}, "std contains -1.0; expected positive finite numbers"),
        ({"mean": [0.5, float("nan"), 0.5]}, "mean contains nan; expected finite numbers"),
        ({"std": [0.5, float("inf"), 0.5]}, "std contains inf; expected positive finite numbers"),
    ],
)
def test_wrong_values_are_named(change: dict, message: str) -> None:
    options = {"name": "small_resnet", "num_classes": 10} | change
    with pytest.raises(InputError, match=message):
        build_model(options.pop("name"), **options)
