"""Masks as the simulator gets them."""

import numpy as np
import pytest
import torch
from torch import nn

from nenni_core import Injection, InputError, inject, mask_densities, masks, pack_mask

X = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 10, 3, padding=1), nn.ReLU(), nn.Conv2d(10, 16, 3, stride=2, padding=1)
        )


def test_masks_have_the_shapes_of_the_outputs_and_change_nothing() -> None:
    noisy = inject(network(), Injection(ratio=0.9))
    before = noisy(X)
    found = masks(noisy, X)
    assert {name: tuple(mask.shape) for name, mask in found.items()} == {
        "0": (3, 10, 8, 8),
        "2": (3, 16, 4, 4),
    }
    assert torch.equal(noisy(X), before)
    assert all(
        (mask.flatten(1).sum(1) == Injection(ratio=0.9).kept(mask[0].numel())).all()
        for mask in found.values()
    )


@pytest.mark.parametrize(("ratio", "expected"), [(0.0, 1.0), (1.0, 0.0)])
def test_masks_exist_at_the_ends_too(ratio: float, expected: float) -> None:
    assert mask_densities(inject(network(), Injection(ratio=ratio)), [X]) == {"0": expected, "2": expected}


def test_densities_average_over_all_batches() -> None:
    noisy = inject(network(), Injection(ratio=None, pattern="7:8"))
    found = mask_densities(noisy, [X[:1], X[1:]])
    # ten channels: one of the first eight, and of the last two ceil(2/8) = 1
    assert found == {"0": 2 / 10, "2": 1 / 8}


def test_packed_masks_unpack_to_positions_times_channels() -> None:
    mask = masks(inject(network(), Injection(ratio=0.6)), X)["0"]
    packed = pack_mask(mask)
    assert packed.shape == (3 * 8 * 8, 2)
    bits = np.unpackbits(packed, axis=1)
    assert not bits[:, 10:].any()
    position = (2 * 8 + 5) * 8 + 3  # image 2, row 5, column 3
    assert bits[position, :10].astype(bool).tolist() == mask[2, :, 5, 3].tolist()


def test_plain_models_and_no_data_are_refused() -> None:
    with pytest.raises(InputError, match="no injected layers and so no masks"):
        masks(network(), X)
    with pytest.raises(InputError, match="at least one batch"):
        mask_densities(inject(network(), Injection()), [])


def test_looking_leaves_batch_statistics_and_noise_alone() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3)).train()
    noisy = inject(model, Injection(randomize="stochastic_rounding"))
    stream = noisy[0].noise_stream.generator.get_state()
    masks(noisy, X)
    mask_densities(noisy, [X])
    assert noisy[1].num_batches_tracked == 0
    assert noisy[1].training
    assert torch.equal(noisy[0].noise_stream.generator.get_state(), stream)
