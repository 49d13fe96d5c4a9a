"""Arrays and what is derived from them: checks, splits, pixels, statistics, embedded and generated data."""

import builtins
import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nenni_core.data import (
    DATASETS,
    RawDataset,
    channel_statistics,
    fingerprint,
    load_dataset,
    split_validation,
    subset,
    to_float,
)
from nenni_core.data.draws import permutation, raw_bits, uniform
from nenni_core.data.fingerprints import hash_arrays
from nenni_core.data.synthetic import SyntheticSpec, generate
from nenni_core.errors import InputError

SYNTHETIC_SHA256 = "7355c81ada53a668bae4d97467cb7ad3bce7b2ddf0b795745462f02bc3a183a8"
"""Of the default generated data: it must not change unnoticed."""


def small_dataset(**changes: object) -> RawDataset:
    fields = {
        "name": "tiny",
        "train_images": np.zeros((4, 1, 2, 2), np.uint8),
        "train_labels": np.array([0, 1, 2, 0]),
        "test_images": np.zeros((2, 1, 2, 2), np.uint8),
        "test_labels": np.array([2, 1]),
        "class_names": ("a", "b", "c"),
        "source": "a test",
    }
    return RawDataset(**(fields | changes))


# --- the checks of RawDataset ----------------------------------------------------------------------------


def test_a_sound_dataset_passes() -> None:
    data = small_dataset()
    assert data.num_classes == 3
    assert data.image_shape == (1, 2, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_labels": np.array([0, 3, 2, 7])}, "train label 3 at index 1; expected 0 to 2 .2 of 4"),
        ({"test_labels": np.array([2, -1])}, "test label -1 at index 1; expected 0 to 2"),
        ({"train_labels": np.array([0, 1, 2])}, r"train labels are int64 \(3,\); expected int64 \(4,\)"),
        ({"train_labels": np.zeros(4, np.int32)}, "train labels are int32"),
        ({"test_images": np.zeros((2, 1, 2, 2), np.float32)}, "test images are float32 .*; expected uint8"),
        ({"train_images": np.zeros((4, 2, 2), np.uint8)}, r"train images are uint8 \(4, 2, 2\)"),
        ({"test_images": np.zeros((0, 1, 2, 2), np.uint8)}, r"test images are uint8 \(0, 1, 2, 2\)"),
        (
            {"test_images": np.zeros((2, 3, 2, 2), np.uint8)},
            r"test images are \(3, 2, 2\); expected \(1, 2, 2\)",
        ),
        ({"class_names": ("a",)}, r"class names are \('a',\); expected two or more"),
        ({"class_names": ("a", "b", "a")}, "class names are .*; expected two or more different ones"),
        ({"class_names": ("a", "b", "")}, "class names are .*; expected two or more different ones"),
    ],
)
def test_an_unsound_dataset_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        small_dataset(**changes)
    assert "\n" not in str(caught.value)


# --- splits ----------------------------------------------------------------------------------------------

some_labels = st.lists(st.integers(0, 4), min_size=1, max_size=60).map(np.array)


def shares_are_fair(labels: np.ndarray, chosen: np.ndarray) -> bool:
    """No class is more than one image away from its exact share."""
    whole, part = Counter(labels.tolist()), Counter(labels[chosen].tolist())
    return all(abs(part[c] - len(chosen) * n / len(labels)) < 1 for c, n in whole.items())


@given(labels=some_labels, data=st.data(), seed=st.integers(0, 2**31))
def test_validation_split(labels: np.ndarray, data: st.DataObject, seed: int) -> None:
    count = data.draw(st.integers(0, len(labels) - 1))
    train, validation = split_validation(labels, count, seed)
    assert len(validation) == count
    assert sorted([*train, *validation]) == list(range(len(labels)))
    assert train.tolist() == sorted(train)
    assert validation.tolist() == sorted(validation)
    assert shares_are_fair(labels, validation)
    again = split_validation(labels, count, seed)
    assert np.array_equal(train, again[0])
    assert np.array_equal(validation, again[1])


@given(labels=some_labels, data=st.data(), seed=st.integers(0, 2**31))
def test_subset(labels: np.ndarray, data: st.DataObject, seed: int) -> None:
    count = data.draw(st.integers(1, len(labels)))
    chosen = subset(labels, count, seed)
    assert len(set(chosen.tolist())) == count
    assert chosen.tolist() == sorted(chosen)
    assert shares_are_fair(labels, chosen)
    assert np.array_equal(chosen, subset(labels, count, seed))


def test_seeds_give_different_choices() -> None:
    labels = np.arange(1000) % 10
    first, second = (split_validation(labels, 100, seed)[1] for seed in (0, 1))
    # Two independent tenths share 10 on average (hypergeometric, standard deviation 2.8).
    assert len(np.intersect1d(first, second)) < 30
    assert len(np.intersect1d(first, subset(labels, 100, 0))) < 30  # the two uses are apart as well


def test_every_image_can_be_chosen_alike() -> None:
    labels = np.arange(40) % 4
    times = np.zeros(40)
    for seed in range(400):
        times[subset(labels, 8, seed)] += 1
    # Each image is in a fifth of the draws: 80 +- 8. Five standard deviations for all of 40.
    assert (abs(times - 80) < 5 * 8).all()
    assert times.sum() == 400 * 8


@pytest.mark.parametrize("count", [-1, 10, 11])
def test_impossible_validation_counts(count: int) -> None:
    with pytest.raises(InputError, match=f"validation images: {count}; expected 0 to 9"):
        split_validation(np.zeros(10, np.int64), count, 0)


@pytest.mark.parametrize("count", [0, 11])
def test_impossible_subsets(count: int) -> None:
    with pytest.raises(InputError, match=f"images to choose: {count}; expected 1 to 10"):
        subset(np.zeros(10, np.int64), count, 0)


# --- random numbers --------------------------------------------------------------------------------------


def test_draws_are_pinned() -> None:
    """The published PCG64 algorithm under the seed's SHA-256: other values are another data set."""
    assert raw_bits(0, "test", count=2).tolist() == [3027799232079467056, 12456830230740606747]
    assert permutation(0, "test", count=8).tolist() == [6, 4, 0, 7, 2, 5, 1, 3]


def test_uniform_draws_are_uniform() -> None:
    draws = np.sort(uniform(0, "test", count=10_000))
    assert draws[0] >= 0
    assert draws[-1] < 1
    # Kolmogorov-Smirnov: the 0.1% critical value is 1.95 / sqrt(n).
    distance = abs(draws - (np.arange(10_000) + 0.5) / 10_000).max()
    assert distance < 1.95 / 100
    assert abs(draws**2 - (np.arange(10_000) + 0.5) / 10_000).max() > 1.95 / 100  # what it must reject


# --- pixels ----------------------------------------------------------------------------------------------


def test_to_float_is_the_rounded_quotient() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    expected = (levels.astype(np.float64) / 255).astype(np.float32)
    for images in (levels, torch.from_numpy(levels)):
        pixels = to_float(images)
        assert pixels.dtype == torch.float32
        assert np.array_equal(pixels.numpy(), expected)


def test_to_float_leaves_its_input_alone() -> None:
    levels = np.full((1, 1, 2, 2), 7, np.uint8)
    levels.flags.writeable = False
    to_float(levels).add_(1)
    assert (levels == 7).all()
    images = torch.zeros(2, 3, 4, 4, dtype=torch.uint8).to(memory_format=torch.channels_last)
    assert to_float(images).is_contiguous(memory_format=torch.channels_last)


@given(seed=st.integers(0, 1000), count=st.integers(1, 5), channels=st.integers(1, 3))
@settings(deadline=None)
def test_channel_statistics(seed: int, count: int, channels: int) -> None:
    images = (
        (raw_bits(seed, count=count * channels * 6) % 256).astype(np.uint8).reshape(count, channels, 2, 3)
    )
    mean, std = channel_statistics(images)
    pixels = images / 255
    np.testing.assert_allclose(mean, pixels.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, pixels.std(axis=(0, 2, 3)), rtol=1e-9, atol=1e-12)
    assert (mean, std) == channel_statistics(images[::-1])


# --- digits ----------------------------------------------------------------------------------------------


def test_digits() -> None:
    sklearn_datasets = pytest.importorskip("sklearn.datasets", reason="the digits are in scikit-learn")
    original = sklearn_datasets.load_digits()
    data = load_dataset("digits")
    images = np.concatenate([data.train_images, data.test_images])
    labels = np.concatenate([data.train_labels, data.test_labels])
    assert data.image_shape == (1, 8, 8)
    assert (len(data.train_labels), len(data.test_labels)) == (1257, 540)
    assert np.array_equal(labels, original.target)
    # 17 evenly spaced levels that reach both ends of the range, each at most half a level off
    assert len(np.unique(images)) == 17
    assert (images.min(), images.max()) == (0, 255)
    assert abs(images[:, 0] / 255 - original.images / 16).max() <= 0.5 / 255 + 1e-12
    for split in (data.train_labels, data.test_labels):
        share = np.bincount(split, minlength=10) / len(split)
        assert ((share > 0.08) & (share < 0.12)).all()


def test_digits_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    original_import = builtins.__import__

    def without(name: str, *args: object, **kwargs: object) -> object:
        if name.startswith("sklearn"):
            raise ImportError(name)
        return original_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match="'digits' needs scikit-learn, which is not installed"):
        load_dataset("digits")


# --- generated data --------------------------------------------------------------------------------------


def test_synthetic_default() -> None:
    data = load_dataset("synthetic")
    assert data.image_shape == (3, 16, 16)
    assert data.num_classes == 10
    for labels in (data.train_labels, data.test_labels):
        counts = np.bincount(labels, minlength=10)
        assert counts.max() - counts.min() <= 1
    assert hash_arrays(data) == fingerprint("synthetic") == SYNTHETIC_SHA256


def test_synthetic_classes_can_be_told_apart() -> None:
    """Nearest class mean of the training images: the signal is there, and not in the labels' order."""
    data = generate(SyntheticSpec(classes=4, channels=1, image_size=8, train_images=64, test_images=64))
    train, test = to_float(data.train_images).flatten(1), to_float(data.test_images).flatten(1)
    labels = torch.from_numpy(data.train_labels)
    means = torch.stack([train[labels == c].mean(0) for c in range(4)])
    nearest = torch.cdist(test, means).argmin(1).numpy()
    assert (nearest == data.test_labels).mean() > 0.95
    assert (np.diff(data.train_labels) % 4 != 1).any()


def test_synthetic_noise_and_contrast() -> None:
    flat = generate(SyntheticSpec(contrast=0.0, noise=0.0))
    assert np.unique(flat.train_images).tolist() == [128]  # 127.5 to even
    noisy = generate(SyntheticSpec(contrast=0.0, noise=0.25))
    mean, std = channel_statistics(noisy.train_images)
    # uniform on 0.5 +- 0.25 has deviation 0.25 / sqrt(3); rounding to grey levels adds little
    np.testing.assert_allclose(mean, 0.5, atol=2e-3)
    np.testing.assert_allclose(std, 0.25 / np.sqrt(3), rtol=5e-3)
    plain = generate(SyntheticSpec(noise=0.0))
    assert all(len(np.unique(plain.train_images[plain.train_labels == c], axis=0)) == 1 for c in range(10))


def test_synthetic_seeds_and_splits_differ() -> None:
    one, two = generate(SyntheticSpec(seed=0)), generate(SyntheticSpec(seed=1))
    assert not np.array_equal(one.train_images, two.train_images)
    assert not np.array_equal(one.train_images[:256], one.test_images)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": 1}, "classes is 1; expected 2 or more"),
        ({"channels": 0}, "channels is 0; expected 1 or more"),
        ({"image_size": 0}, "image_size is 0; expected 1 or more"),
        ({"train_images": 9}, "train_images is 9; expected 10 or more"),
        ({"test_images": 9}, "test_images is 9; expected 10 or more"),
        ({"contrast": 0.6}, "contrast is 0.6; expected 0 to 0.5"),
        ({"noise": -0.1}, "noise is -0.1; expected 0 to 1"),
    ],
)
def test_impossible_synthetic_data(changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SyntheticSpec(**changes)


# --- names and fingerprints ------------------------------------------------------------------------------


def test_unknown_data_set() -> None:
    for function in (load_dataset, fingerprint):
        with pytest.raises(InputError, match="unknown data set 'cifar11'; did you mean 'cifar10'"):
            function("cifar11")


@pytest.mark.parametrize("name", ["digits", "synthetic"])
def test_embedded_data_have_no_path(name: str) -> None:
    for function in (load_dataset, fingerprint):
        with pytest.raises(InputError, match=f"'{name}' is not read from files: path is 'x'"):
            function(name, path="x")


@pytest.mark.parametrize("name", DATASETS)
def test_fingerprints_are_sha256_and_need_no_network(name: str) -> None:
    if name == "digits":
        pytest.importorskip("sklearn", reason="the digits are in scikit-learn")
    assert len(bytes.fromhex(fingerprint(name))) == 32
    assert len({fingerprint(other) for other in DATASETS}) == len(DATASETS)


def test_array_fingerprint_sees_every_part() -> None:
    data = small_dataset()
    other_pixel = data.train_images.copy()
    other_pixel[3, 0, 1, 1] = 1
    variants = [
        {"train_images": other_pixel},
        {"train_labels": np.array([0, 1, 2, 1])},
        {"test_images": np.ones((2, 1, 2, 2), np.uint8)},
        {"test_labels": np.array([1, 2])},
        {"class_names": ("a", "c", "b")},
        # the same bytes in another shape
        {"train_images": np.zeros((4, 1, 1, 4), np.uint8), "test_images": np.zeros((2, 1, 1, 4), np.uint8)},
    ]
    hashes = [hash_arrays(dataclasses.replace(data, **variant)) for variant in ({}, *variants)]
    assert len(set(hashes)) == len(hashes)
    assert hash_arrays(small_dataset(name="other", source="elsewhere")) == hashes[0]
