"""Masks: exact amounts of noise, files that come back, agreement with the training side, wrong ones."""

from collections import Counter
from dataclasses import asdict, replace
from fractions import Fraction
from math import ceil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from machines import small_layer, some_mask
from safetensors.numpy import save_file
from torch import nn

from hwsim.errors import InputError
from hwsim.hardware import load_hardware
from hwsim.layers import Layer
from hwsim.masks import (
    FORMAT,
    Mask,
    Pattern,
    check_mask,
    kept_outputs,
    load_masks,
    pack,
    random_mask,
    save_masks,
    unpack,
)
from hwsim.simulate import simulate_layer, simulate_network
from hwsim.technology import load_technology
from nenni_core import Injection, inject, masks, pack_mask
from nenni_core.injection import Pattern as CorePattern
from nenni_core.shapes import layer_shapes

LAYER = Layer(name="conv", in_channels=3, out_channels=21, kernel_height=3, kernel_width=3,
              in_height=5, in_width=7, out_height=5, out_width=7)  # fmt: skip
ratios = st.decimals(0, 1, places=3).map(float)


# --- random masks ----------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(ratio=ratios, images=st.integers(1, 3), channels=st.integers(1, 40), seed=st.integers(0, 99))
def test_every_image_keeps_its_share(ratio: float, images: int, channels: int, seed: int) -> None:
    layer = replace(LAYER, out_channels=channels)
    mask = random_mask(layer, np.random.default_rng(seed), ratio=ratio, images=images)
    check_mask(layer, mask, images)
    kept = ceil((1 - Fraction(str(ratio))) * 35 * channels)
    assert mask.reshape(images, -1).sum(axis=1).tolist() == [kept] * images


@settings(max_examples=60, deadline=None)
@given(
    noisy=st.integers(0, 9), extra=st.integers(0, 9), images=st.integers(1, 3), channels=st.integers(1, 40)
)
def test_every_group_keeps_what_the_pattern_says(noisy: int, extra: int, images: int, channels: int) -> None:
    pattern = Pattern(noisy, noisy + max(extra, noisy == 0))
    layer = replace(LAYER, out_channels=channels)
    mask = random_mask(layer, np.random.default_rng(0), pattern=pattern, images=images)
    check_mask(layer, mask, images)
    for start in range(0, channels, pattern.group):
        part = mask[:, start : start + pattern.group]
        kept = ceil(Fraction(pattern.group - noisy, pattern.group) * part.shape[1])
        assert set(part.sum(axis=1).tolist()) == {kept}


@pytest.mark.parametrize("noise", [{"ratio": 0.75}, {"pattern": Pattern(6, 8)}])
def test_every_place_is_as_likely(noise: dict[str, float | Pattern]) -> None:
    """A quarter of 600 draws for each neuron, within five standard deviations; draws differ."""
    layer = replace(LAYER, out_channels=8, out_height=2, out_width=2)
    mask = random_mask(layer, np.random.default_rng(1), images=600, **noise).reshape(600, -1)
    assert np.abs(mask.mean(axis=0) - 0.25).max() < 5 * (0.25 * 0.75 / 600) ** 0.5
    assert max(Counter(map(bytes, mask)).values()) < 10


def test_the_generator_decides() -> None:
    one, same, other = (random_mask(LAYER, np.random.default_rng(seed), ratio=0.5) for seed in (1, 1, 2))
    assert (one == same).all()
    assert (one != other).any()


def test_impossible_amounts() -> None:
    rng = np.random.default_rng(0)
    for wrong in (-0.1, 1.5, float("nan")):
        with pytest.raises(InputError, match=rf"ratio {wrong!r} is outside \[0, 1\]"):
            random_mask(LAYER, rng, ratio=wrong)
    for noise in ({}, {"ratio": 0.5, "pattern": Pattern(1, 8)}):
        with pytest.raises(InputError, match="expected either a ratio or a pattern, found ratio="):
            random_mask(LAYER, rng, **noise)


# --- as the training side has them -----------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(noisy=st.integers(0, 12), extra=st.integers(0, 12), size=st.integers(1, 30))
def test_patterns_keep_what_the_injected_model_keeps(noisy: int, extra: int, size: int) -> None:
    text = f"{noisy}:{noisy + max(extra, noisy == 0)}"
    assert Pattern.parse(text).kept(size) == CorePattern.parse(text).kept(size)


@given(ratio=ratios, outputs=st.integers(1, 100_000))
def test_ratios_keep_what_the_injected_model_keeps(ratio: float, outputs: int) -> None:
    assert kept_outputs(ratio, outputs) == Injection(ratio=ratio).kept(outputs)


@pytest.mark.parametrize("text", ["", "7", "7:", "a:8", "-1:8", "7:8:9", "1.5:8", "7/8"])
def test_what_is_no_pattern(text: str) -> None:
    with pytest.raises(InputError, match=f"^pattern {text!r} is not of the form 'N:M', for example '7:8'$"):
        Pattern.parse(text)


@pytest.mark.parametrize("text", ["9:8", "0:0"])
def test_impossible_patterns(text: str) -> None:
    with pytest.raises(InputError, match=rf"pattern '{text}' asks for noise in .* expected 0 <= N <= M"):
        Pattern.parse(text)


def test_masks_of_a_model_are_packed_alike_and_can_be_simulated(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 10, 3, padding=1), nn.ReLU(), nn.Conv2d(10, 16, 3, stride=2))
    noisy = inject(model, Injection(ratio=0.8))
    images = torch.rand(2, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    layers = [Layer(**asdict(one)) for one in layer_shapes(noisy, (3, 9, 9))]
    found = masks(noisy, images)
    as_arrays = {name: unpack(pack_mask(mask), mask.shape[1]) for name, mask in found.items()}
    for layer in layers:
        mask, array = found[layer.name], as_arrays[layer.name]
        assert (pack(array) == pack_mask(mask)).all()
        # (image, channel, row, column) of the model is ((image, row, column), channel) here
        assert (
            array.reshape(2, layer.out_height, layer.out_width, -1) == mask.numpy().transpose(0, 2, 3, 1)
        ).all()
    save_masks(tmp_path / "masks.safetensors", as_arrays, images=2, about={})
    read = load_masks(tmp_path / "masks.safetensors", layers)
    result = simulate_network(
        layers, load_hardware("unstructured"), load_technology("nangate45"), read.masks, images=read.images
    )
    assert [one.density for one in result.layers] == [mask.double().mean().item() for mask in found.values()]


# --- bytes and files -------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(positions=st.integers(1, 20), channels=st.integers(1, 40), seed=st.integers(0, 99))
def test_packing_comes_back(positions: int, channels: int, seed: int) -> None:
    mask = np.random.default_rng(seed).random((positions, channels)) < 0.5
    packed = pack(mask)
    assert packed.shape == (positions, ceil(channels / 8))
    unpacked = unpack(packed, channels)
    assert unpacked.dtype == np.bool_
    assert (unpacked == mask).all()
    value = int.from_bytes(packed[0].tobytes(), "big") >> (-channels % 8)  # the first channel is highest
    assert f"{value:0{channels}b}" == "".join(str(int(bit)) for bit in mask[0])


def saved(path: Path, images: int = 2) -> tuple[list[Layer], dict[str, Mask]]:
    rng = np.random.default_rng(0)
    layers = [small_layer(rng, f"layer {i}") for i in range(3)]
    found = {one.name: some_mask(rng, one, images) for one in layers}
    save_masks(path, found, images=images, about={"network": "small", "noise": "some"})
    return layers, found


def test_files_come_back(tmp_path: Path) -> None:
    layers, found = saved(tmp_path / "masks.safetensors")
    read = load_masks(tmp_path / "masks.safetensors", layers)
    assert (read.images, read.about) == (2, {"network": "small", "noise": "some"})
    assert list(read.masks) == list(found)
    assert all((read.masks[name] == mask).all() for name, mask in found.items())


def test_files_of_other_networks(tmp_path: Path) -> None:
    path = tmp_path / "masks.safetensors"
    layers, _ = saved(path)
    for wrong, expected in (
        (layers[:2], "has a mask of layer 'layer 2', which the network lacks"),
        ([*layers, LAYER], "has no mask of layer 'conv'; found: layer 0, layer 1, layer 2"),
        (
            [replace(layers[0], out_height=99), *layers[1:]],
            "mask of layer 'layer 0' is uint8 .*; expected bytes",
        ),
        ([replace(layers[0], out_channels=99), *layers[1:]], "for 2 images, .* positions, 99 channels"),
    ):
        with pytest.raises(InputError, match=expected) as caught:
            load_masks(path, wrong)
        assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {"other": '{"images": 1, "about": {}}'},
        {FORMAT: "no JSON"},
        {FORMAT: '{"images": 1}'},
        {FORMAT: '{"images": "two", "about": {}}'},
        {FORMAT: '{"images": 0, "about": {}}'},
        {FORMAT: "[1]"},
        {FORMAT: '{"images": 1, "about": {"pattern": [1]}}'},
        {FORMAT: '{"images": 1, "about": {"noise": null}}'},
    ],
)
def test_other_files_of_tensors(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    path = tmp_path / "masks.safetensors"
    save_file({"conv": np.zeros((35, 3), dtype=np.uint8)}, path, metadata)
    with pytest.raises(InputError, match=f"not a file of masks; expected metadata '{FORMAT}'"):
        load_masks(path, [LAYER])


@pytest.mark.parametrize(
    ("about", "expected"),
    [
        ('{"noisy_share": "half"}', "masks.safetensors: could not convert string to float: 'half'"),
        ('{"noisy_share": "nan"}', "masks.safetensors: noisy_share nan is outside"),
        ('{"pattern": "9:8"}', "masks.safetensors: pattern '9:8' asks for noise in 9 of 8 neurons"),
    ],
)
def test_what_masks_say_of_themselves_is_checked(tmp_path: Path, about: str, expected: str) -> None:
    path = tmp_path / "masks.safetensors"
    bits = np.zeros((35, 3), dtype=np.uint8)
    save_file({"conv": bits}, path, {FORMAT: f'{{"images": 1, "about": {about}}}'})
    with pytest.raises(InputError, match=expected):
        load_masks(path, [LAYER])


def test_an_unsaid_share_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "masks.safetensors"
    mask = np.zeros((35, LAYER.out_channels), dtype=np.bool_)
    mask[:7] = True
    save_masks(path, {"conv": mask}, images=1, about={})
    found = load_masks(path, [LAYER])
    assert (found.pattern, found.noisy_share) == (None, 0.8)
    save_masks(path, {"conv": mask}, images=1, about={"noisy_share": "0.75", "pattern": "6:8"})
    found = load_masks(path, [LAYER])
    assert (found.pattern, found.noisy_share) == (Pattern(6, 8), 0.75)


def test_masks_of_another_type(tmp_path: Path) -> None:
    path = tmp_path / "masks.safetensors"
    save_file({"conv": np.zeros((35, 3), dtype=np.float32)}, path, {FORMAT: '{"images": 1, "about": {}}'})
    with pytest.raises(InputError, match=r"is float32 \(35, 3\); expected bytes \(35, 3\)"):
        load_masks(path, [LAYER])


def test_no_file_of_masks(tmp_path: Path) -> None:
    (tmp_path / "text.safetensors").write_text("no tensors")
    for name in ("absent.safetensors", "text.safetensors", "."):
        with pytest.raises(InputError, match="cannot be read as a file of masks") as caught:
            load_masks(tmp_path / name, [LAYER])
        assert "\n" not in str(caught.value)


# --- masks that do not fit what is simulated -------------------------------------------------------------


def test_wrong_masks_of_a_layer() -> None:
    core = load_hardware("unstructured")
    mask = np.ones((35, 21), dtype=np.bool_)
    for wrong in (mask[:-1], mask[:, :-1], mask.astype(np.uint8), np.concatenate([mask, mask])):
        with pytest.raises(
            InputError, match=r"mask of layer 'conv' is .*; expected bool \(35, 21\): 1 x 35 pos"
        ):
            simulate_layer(LAYER, core, wrong)
    with pytest.raises(InputError, match="images is 0; expected a count from 1 on"):
        simulate_layer(LAYER, core, mask, images=0)


def test_groups_of_a_convolution_hold_whole_groups_of_the_selection() -> None:
    """Groups run one after the other: a selection across them would choose from what is not there yet."""
    core, rng = load_hardware("structured"), np.random.default_rng(0)
    for groups, allowed in ((2, True), (4, False), (16, False)):
        layer = replace(LAYER, in_channels=16, out_channels=16, groups=groups, rank=0)
        mask = random_mask(layer, rng, pattern=Pattern(6, 8))
        if allowed:
            assert simulate_layer(layer, core, mask).counters.comparisons == layer.positions * 2 * 28
        else:
            with pytest.raises(InputError, match=f"{16 // groups} channels in each of {groups} groups"):
                simulate_layer(layer, core, mask)
        assert simulate_layer(layer, load_hardware("unstructured"), mask).counters.cycles > 0


def test_hardware_that_selects_from_groups_needs_a_pattern() -> None:
    core, rng = load_hardware("structured"), np.random.default_rng(0)
    mask = random_mask(LAYER, rng, pattern=Pattern(6, 8))
    assert simulate_layer(LAYER, core, mask).counters.cycles > 0  # 21 channels: the last group is short
    mask[3, 8:16] = False
    with pytest.raises(
        InputError, match=r"'conv' has no pattern: 'structured' .* keeps 0 of some and 2 of others"
    ):
        simulate_layer(LAYER, core, mask)


def test_networks_that_cannot_run() -> None:
    core, technology = load_hardware("unstructured"), load_technology("nangate45")
    with pytest.raises(InputError, match="the network has no layers; expected at least one"):
        simulate_network([], core, technology)
    with pytest.raises(InputError, match=r"unknown layer 'cov'; did you mean 'conv'\?"):
        simulate_network([LAYER], core, technology, {"cov": np.ones((35, 21), dtype=np.bool_)})
