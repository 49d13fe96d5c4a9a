"""A noisy layer against the paper's equation 2, written out slowly."""

import copy
import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nenni_core import (
    InputError,
    calibrate,
    gradient_mode,
    held_noise,
    inject,
    masks,
    set_injection,
    set_noise,
)
from nenni_core.injection import Injection
from nenni_core.layers import NoisyConv2d, NoisyLayer, NoisyLinear
from nenni_core.mixing import mix, mix_integers
from nenni_core.projection import projection_matrix

GEOMETRIES: dict[str, dict[str, Any]] = {
    "plain": {"kernel_size": 3, "padding": 1},
    "strided": {"kernel_size": 3, "stride": 2, "padding": 1, "bias": False},
    "pointwise": {"kernel_size": 1},
    "grouped": {"kernel_size": 3, "groups": 2},
    "depthwise": {"kernel_size": 3, "groups": 4, "padding": 2, "dilation": 2},
    "rectangular": {"kernel_size": (1, 3), "padding": (0, 1), "stride": (2, 1)},
    "reflecting": {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
    "same": {"kernel_size": 3, "padding": "same"},
}


def seeded(build: Any, seed: int = 0) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build()


def convolution(name: str = "plain", seed: int = 0) -> nn.Conv2d:
    return seeded(lambda: nn.Conv2d(4, 8, **GEOMETRIES[name]), seed)


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def noisy(dense: nn.Module, **fields: Any) -> NoisyLayer:
    if "pattern" in fields:
        fields["ratio"] = None
    layer = inject(dense, Injection(**fields), linear=True)
    assert isinstance(layer, NoisyLayer)
    return layer


def two_step_approximation(layer: NoisyConv2d, x: torch.Tensor) -> torch.Tensor:
    """W~ P x + b~ as the paper writes it: P as k filters a group, then a pointwise convolution."""
    weight, bias = layer.rounded_parameters(0)
    P = projection_matrix(layer.signs[0]).flatten(0, 1).reshape(-1, *layer.weight.shape[1:])
    y = layer._conv_forward(x, P, None)
    return F.conv2d(y, weight[..., None, None], bias, groups=layer.groups)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_folded_kernel_equals_projection_then_mixing(name: str) -> None:
    layer = noisy(convolution(name))
    x = images(3, 4, 10, 10)
    assert torch.allclose(layer.approximate(x), two_step_approximation(layer, x), atol=1e-5)


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("channels_last", [False, True])
def test_output_is_precise_where_essential_and_approximate_elsewhere(name: str, channels_last: bool) -> None:
    dense = convolution(name)
    layer = noisy(dense, ratio=0.7)
    x = images(3, 4, 10, 10)
    if channels_last:
        dense, layer, x = (item.to(memory_format=torch.channels_last) for item in (dense, layer, x))
    mask = masks(layer, x)[""]
    z, z_approx, output = dense(x), layer.approximate(x), layer(x)
    assert torch.equal(output[mask], z[mask])  # to the bit
    assert torch.equal(output[~mask], z_approx[~mask])
    assert mask[0].sum() == layer.injection.kept(z[0].numel())


@pytest.mark.parametrize("name", GEOMETRIES)
def test_ratio_zero_is_the_dense_layer_and_ratio_one_the_approximation(name: str) -> None:
    dense = convolution(name)
    x = images(2, 4, 9, 9)
    assert torch.equal(noisy(dense, ratio=0.0)(x), dense(x))
    assert torch.equal(noisy(dense, pattern="0:8")(x), dense(x))
    everything = noisy(dense, ratio=1.0)
    assert torch.equal(everything(x), everything.approximate(x))


@pytest.mark.parametrize("shape", [(5, 6), (5, 7, 6)])
def test_linear_layers_select_among_a_samples_features(shape: tuple[int, ...]) -> None:
    dense = seeded(lambda: nn.Linear(6, 16))
    layer = noisy(dense, pattern="6:8")
    assert isinstance(layer, NoisyLinear)
    x = images(*shape)
    mask = masks(layer, x)[""]
    assert torch.equal(layer(x), torch.where(mask, dense(x), layer.approximate(x)))
    assert (mask.reshape(-1, 2, 8).sum(-1) == 2).all()


def test_an_image_without_a_batch_axis_is_one_sample() -> None:
    layer = noisy(convolution())
    x = images(4, 9, 9)
    assert torch.equal(layer(x), layer(x.unsqueeze(0)).squeeze(0))


@pytest.mark.parametrize("target", ["non_essential", "essential"])
def test_target_says_whether_the_largest_or_the_smallest_get_noise(target: str) -> None:
    layer = noisy(convolution(), ratio=0.25, target=target)
    x = images(2, 4, 8, 8)
    mask = masks(layer, x)[""]
    score = layer.approximate(x).abs()
    noise, kept = score[~mask].reshape(2, -1), score[mask].reshape(2, -1)
    assert mask.float().mean() == 0.75  # the share of noise is the same
    if target == "essential":
        assert (noise.amin(1) >= kept.amax(1)).all()
    else:
        assert (noise.amax(1) <= kept.amin(1)).all()


def gradients(layer: NoisyLayer, x: torch.Tensor) -> torch.Tensor:
    x = x.clone().requires_grad_()
    weights = images(*layer(x).shape, seed=9)
    return torch.autograd.grad((layer(x) * weights).sum(), x)[0]


@pytest.mark.parametrize("pattern", [None, "4:8"])
def test_blocked_gradient_is_that_of_the_essential_neurons_alone(pattern: str | None) -> None:
    dense = convolution()
    layer = noisy(dense, **({"ratio": 0.6} if pattern is None else {"pattern": pattern}), gradient="blocked")
    x = images(2, 4, 8, 8)
    mask = masks(layer, x)[""]
    leaf = x.clone().requires_grad_()
    expected = torch.autograd.grad((dense(leaf) * mask * images(*mask.shape, seed=9)).sum(), leaf)[0]
    assert torch.allclose(gradients(layer, x), expected, atol=1e-6)


def test_straight_through_gradient_is_that_of_both_linear_maps() -> None:
    dense = convolution()
    layer = noisy(dense, ratio=0.6, gradient="straight_through")
    x = images(2, 4, 8, 8)
    mask = masks(layer, x)[""]
    leaf = x.clone().requires_grad_()
    output = dense(leaf) * mask + two_step_approximation(layer, leaf) * ~mask
    expected = torch.autograd.grad((output * images(*mask.shape, seed=9)).sum(), leaf)[0]
    assert torch.allclose(gradients(layer, x), expected, atol=1e-5)


def test_blocked_gradient_is_zero_when_everything_is_noise() -> None:
    layer = noisy(convolution(), ratio=1.0, gradient="blocked")
    assert gradients(layer, images(2, 4, 8, 8)).abs().max() == 0
    with gradient_mode(layer, "straight_through"):
        assert gradients(layer, images(2, 4, 8, 8)).abs().max() > 0
    assert layer.injection.gradient == "blocked"


def test_rounded_projection_lets_the_straight_through_gradient_pass() -> None:
    layer = noisy(convolution(), ratio=1.0, quantize_projected=True)
    assert gradients(layer, images(2, 4, 8, 8)).abs().max() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_integer_mixing_equals_where_with_its_gradients(dtype: torch.dtype) -> None:
    mask = images(3, 5, 7) > 0.4
    upstream = images(3, 5, 7, seed=3).to(dtype)
    integer = torch.int32 if dtype == torch.float32 else torch.int16
    results = []
    for function, selector in ((mix, mask), (mix_integers, mask.to(integer))):
        z, z_approx = (images(3, 5, 7, seed=s).to(dtype).requires_grad_() for s in (1, 2))
        output = function(selector, z, z_approx)
        output.backward(upstream)
        results.append((output, z.grad, z_approx.grad))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_a_noisy_layer_of_whole_numbers_of_bits_is_exact_in_bfloat16_autocast_too() -> None:
    layer = noisy(convolution())
    plain = layer._folded(0, None)[0].clone()
    layer._kernels.clear()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer._folded(0, None)[0], plain)


def test_kernels_follow_every_change_of_the_parameters() -> None:
    layer = noisy(convolution())
    x = images(2, 4, 8, 8)
    with torch.no_grad():
        before = layer.approximate(x)
        layer.approx_weight.mul_(2)
        layer.refit_exponents()
        assert torch.allclose(layer.approximate(x) - layer.approx_bias[0][:, None, None],
                              2 * (before - layer.approx_bias[0][:, None, None]), atol=0.2)  # fmt: skip
        other = noisy(convolution(seed=5))
        layer.load_state_dict(other.state_dict())
        assert torch.equal(layer(x), other(x))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    layer(x).sum().backward()
    optimizer.step()
    rebuilt = copy.deepcopy(layer)
    rebuilt._kernels.clear()
    with torch.no_grad():
        assert torch.equal(layer(x), rebuilt(x))


def test_a_bank_draws_one_of_its_projections_at_each_pass() -> None:
    layer = noisy(convolution(), ratio=1.0, randomize="bank", bank_size=3)
    set_noise(layer, "inference", seed=1)
    x = images(1, 4, 8, 8)
    seen = {tuple(layer(x).flatten().tolist()) for _ in range(60)}
    members = set()
    for index in range(3):
        kernel, bias = layer._folded(index, None)
        members.add(tuple(layer._affine(x, kernel, bias).flatten().tolist()))
    assert seen == members


@pytest.mark.parametrize("mode", ["bank", "stochastic_rounding"])
def test_noise_is_reproducible_held_and_fresh(mode: str) -> None:
    layer = noisy(convolution(), ratio=0.9, randomize=mode, bank_size=50)
    x = images(1, 4, 8, 8)

    def passes(name: str, seed: int) -> list[torch.Tensor]:
        set_noise(layer, name, seed)
        return [layer(x) for _ in range(4)]

    assert all(map(torch.equal, passes("attack", 1), passes("attack", 1)))
    assert not all(map(torch.equal, passes("attack", 1), passes("inference", 1)))
    assert not all(map(torch.equal, passes("attack", 1), passes("attack", 2)))
    assert not all(torch.equal(a, b) for a, b in itertools.pairwise(passes("attack", 1)))
    set_noise(layer, "attack", 1)
    with held_noise(layer):
        held = [layer(x) for _ in range(4)]
    with held_noise(layer):
        later = [layer(x) for _ in range(4)]
    assert all(torch.equal(held[0], again) for again in held)
    assert all(torch.equal(later[0], again) for again in later)
    assert not torch.equal(held[0], later[0])


def test_a_random_model_can_be_copied() -> None:
    layer = noisy(convolution(), randomize="stochastic_rounding")
    x = images(1, 4, 8, 8)
    layer(x)
    twin = copy.deepcopy(layer)
    assert torch.equal(layer(x), twin(x))  # the copy continues where the original stands ...
    layer(x)
    assert not torch.equal(layer(x), twin(x))  # ... with a generator of its own


def test_threshold_selection_wants_calibration_and_loses_it_with_the_ratio() -> None:
    layer = noisy(convolution(), ratio=0.8, selection="threshold")
    x = images(16, 4, 8, 8)
    with pytest.raises(InputError, match="has no threshold for this ratio"):
        layer(x)
    calibrate(layer, [x])
    assert masks(layer, x)[""].float().mean() == pytest.approx(0.2, abs=1e-3)
    set_injection(layer, ratio=0.5)
    with pytest.raises(InputError, match="call calibrate"):
        layer(x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_models_of_other_precisions_keep_it(dtype: torch.dtype) -> None:
    layer = noisy(convolution().to(dtype), ratio=0.5)
    x = images(2, 4, 8, 8).to(dtype)
    mask = masks(layer, x)[""]
    assert layer(x).dtype == dtype
    assert torch.equal(layer(x), torch.where(mask, layer.precise(x), layer.approximate(x)))
    assert mask[0].sum() == layer.injection.kept(mask[0].numel())


@pytest.mark.parametrize(
    "fields", [{"ratio": 0.7}, {"pattern": "7:8"}, {"ratio": 0.7, "target": "essential"}]
)
def test_the_path_of_accelerators_gives_the_same_bits(fields: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = noisy(convolution(), **fields), images(2, 4, 8, 8)
    expected, gradient, mask = layer(x), gradients(layer, x), masks(layer, x)[""]
    monkeypatch.setattr("nenni_core.layers._has_fast_integers", lambda values: False)
    assert torch.equal(layer(x), expected)
    assert torch.equal(gradients(layer, x), gradient)
    assert torch.equal(masks(layer, x)[""], mask)


def test_a_kernel_from_inference_mode_does_not_reach_a_backward_pass() -> None:
    layer, x = noisy(convolution(), ratio=0.5).requires_grad_(False), images(2, 4, 8, 8)
    expected = gradients(layer, x)
    layer._kernels.clear()
    with torch.inference_mode():
        layer(x)
    assert torch.equal(gradients(layer, x), expected)


def test_empty_batches_and_single_vectors_are_as_in_the_dense_layers() -> None:
    layer = noisy(convolution())
    assert layer(images(0, 4, 9, 9)).shape == (0, 8, 9, 9)
    linear = noisy(seeded(lambda: nn.Linear(6, 20)), ratio=0.9)
    vector = images(6)
    assert torch.equal(linear(vector), linear(vector[None])[0])
    assert (linear(vector) == linear.precise(vector[None])[0]).sum() == 2


def test_writes_that_pytorch_does_not_count_are_noticed() -> None:
    """`.data` goes past the version counter: weight averaging and some optimisers write through it."""
    layer, x = noisy(convolution(), ratio=0.9), images(2, 4, 9, 9)
    with torch.no_grad():
        layer(x)
        layer.approx_weight.data.mul_(-1)
        layer.approx_bias.data.add_(0.5)
        after = layer(x)
        layer.train().eval()  # forgets what was kept
        assert torch.equal(after, layer(x))


def test_replicas_keep_nothing() -> None:
    """`DataParallel` makes replicas anew for each batch, possibly in the memory of the last ones."""
    layer, x = noisy(convolution(), ratio=0.9), images(2, 4, 9, 9)
    layer._is_replica = True
    with torch.no_grad():
        layer(x)
    assert not layer._kernels


def test_kernels_follow_the_memory_layout_of_the_weights() -> None:
    """In another layout a convolution rounds otherwise: what ran before must not decide on a result."""
    layer, x = noisy(convolution(), ratio=0.9), images(2, 4, 9, 9)
    with torch.no_grad():
        layer(x)
        layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)
        kernel, _ = layer._folded(0, None)
    assert kernel.is_contiguous(memory_format=torch.channels_last)
