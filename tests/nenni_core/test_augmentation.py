"""Crop and flip against NumPy's padding, window by window."""

import numpy as np
import pytest
import torch
from torch import Tensor

from nenni_core.data import to_float
from nenni_core.training.augmentation import augment, pixels


def random_images(count: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, height, width), generator=generator, dtype=torch.uint8)


def windows(image: Tensor, padding: int, flip: bool) -> list[np.ndarray]:
    """Every outcome for one image, the slow way."""
    edges = ((0, 0), (padding, padding), (padding, padding))
    padded = np.pad(image.numpy(), edges, mode="reflect")
    _, height, width = image.shape
    cuts = [padded[:, i : i + height, j : j + width]
            for i in range(2 * padding + 1) for j in range(2 * padding + 1)]  # fmt: skip
    # A window is cut from the mirrored padded image, which has the same windows mirrored.
    return cuts + ([cut[:, :, ::-1] for cut in cuts] if flip else [])


@pytest.mark.parametrize(("height", "width", "padding"), [(6, 6, 4), (5, 8, 2), (4, 4, 0), (4, 4, 3)])
@pytest.mark.parametrize("flip", [True, False])
def test_every_output_is_a_window_of_its_own_image(height: int, width: int, padding: int, flip: bool) -> None:
    stored = random_images(12, height, width)
    index = torch.tensor([3, 0, 11, 3, 7])
    out = augment(stored, index, padding=padding, flip=flip, generator=torch.Generator().manual_seed(0))
    assert out.dtype == torch.float32
    assert out.is_contiguous(memory_format=torch.channels_last)
    levels = (out * 255).round().to(torch.uint8).numpy()
    for result, source in zip(levels, index.tolist(), strict=True):
        assert any(np.array_equal(result, window) for window in windows(stored[source], padding, flip))


def test_all_windows_are_equally_likely() -> None:
    stored, draws = random_images(1, 5, 5), 9_000
    index = torch.zeros(draws, dtype=torch.int64)
    out = augment(stored, index, padding=1, flip=True, generator=torch.Generator().manual_seed(0))
    levels = (out * 255).round().to(torch.uint8)
    expected = [torch.from_numpy(window.copy()) for window in windows(stored[0], 1, True)]
    counts = torch.tensor([float((levels == window).flatten(1).all(1).sum()) for window in expected])
    assert counts.sum() == draws
    mean = draws / len(expected)
    chi_square = float(((counts - mean) ** 2 / mean).sum())
    assert len(expected) == 18
    assert chi_square < 40.8  # the 99.9% quantile with 17 degrees of freedom


def test_without_crop_and_flip_the_pixels_are_the_stored_ones() -> None:
    stored = random_images(7, 6, 6)
    index = torch.tensor([6, 2])
    out = augment(stored, index, padding=0, flip=False, generator=torch.Generator().manual_seed(0))
    assert torch.equal(out, to_float(stored)[index])
    assert torch.equal(pixels(stored), to_float(stored))
    assert pixels(stored).is_contiguous(memory_format=torch.channels_last)


def test_the_stream_advances_equally_whatever_is_switched_on() -> None:
    stored, index = random_images(3, 6, 6), torch.arange(3)
    states = []
    for padding, flip in ((2, True), (2, False), (1, True)):
        generator = torch.Generator().manual_seed(5)
        augment(stored, index, padding=padding, flip=flip, generator=generator)
        states.append(generator.get_state())
    assert all(torch.equal(state, states[0]) for state in states)
