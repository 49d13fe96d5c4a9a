"""Small designs, layers and masks in random sizes, for both engines."""

from typing import Any

import numpy as np

from hwsim.hardware import Hardware
from hwsim.layers import Layer
from hwsim.masks import Mask

DENSITIES = (0.0, 0.02, 0.1, 0.3, 0.7, 1.0)


def small_hardware(rng: np.random.Generator, **fixed: Any) -> Hardware:
    """A design of a few units; its corners (no pipeline, lockstep, one of everything) are drawn often."""
    grouped = fixed.get("selection", rng.choice(["threshold", "groups"])) == "groups"
    group = int(rng.choice([1, 2, 3, 4])) if grouped else 8
    sizes = {
        "vector_units": rng.integers(1, 6),
        "rows_per_unit": group * rng.integers(1, 4) if grouped else rng.integers(1, 7),
        "lanes": rng.integers(1, 9),
        "positions_per_tile": rng.integers(1, 8),
        "pipeline_depth_cycles": rng.choice([0, 1, 3, 9, 30]),
        "run_ahead_positions": rng.choice([1, 2, 3, 8]),
        "activation_words_per_cycle": rng.integers(1, 4),
        "projection_adders": rng.choice([1, 3, 10, 100, 10_000]),
        "selection_latency_cycles": rng.choice([0, 1, 4]),
        "group_channels": group,
    }
    chosen = {name: int(size) for name, size in sizes.items()} | {
        "name": "small",
        "selection": "groups" if grouped else "threshold",
        **fixed,
    }
    if "lanes" not in fixed:  # what four outputs of each unit need to be written in a cycle
        words = chosen["activation_words_per_cycle"]
        chosen["lanes"] = max(chosen["lanes"], -(-4 * chosen["vector_units"] // words))
        if rng.random() < 0.5:  # chunks are often shorter than a dot product
            chosen["vector_units"] = min(chosen["vector_units"], 2)
            chosen["lanes"] = -(-4 * chosen["vector_units"] // words)
    return Hardware(**chosen)


def small_layer(rng: np.random.Generator, name: str = "layer", **fixed: Any) -> Layer:
    """A convolution of up to some 30 positions and 40 channels."""
    groups = fixed.get("groups", 1)
    height, width, kernel, *_ = (int(size) for size in rng.integers(1, [6, 6, 4]))
    sizes = {
        "in_channels": int(rng.integers(1, 7)) * groups,
        "out_channels": int(rng.integers(1, 40)) * groups,
        "kernel_height": kernel,
        "kernel_width": int(rng.integers(1, 4)),
        "in_height": height,
        "in_width": width,
        "out_height": height,
        "out_width": width,
    }
    return Layer(name=name, **sizes | fixed)


def some_mask(rng: np.random.Generator, layer: Layer, images: int = 1) -> Mask:
    """Any mask: positions and channels differ in density, as those of a network do."""
    shape = images * layer.positions, layer.out_channels
    density = rng.choice(DENSITIES)
    uneven = density * 2 * rng.random((shape[0], 1)) * 2 * rng.random((1, shape[1]))
    return rng.random(shape) < (density if rng.random() < 0.5 or density == 1 else uneven)


def pattern_mask(rng: np.random.Generator, layer: Layer, kept: int, group: int, images: int = 1) -> Mask:
    """`kept` of every `group` channels, and of a last, shorter group no more than it has."""
    positions = images * layer.positions
    parts = []
    for start in range(0, layer.out_channels, group):
        size = min(group, layer.out_channels - start)
        parts.append(rng.permuted(np.tile(np.arange(size) < kept, (positions, 1)), axis=1))
    return np.concatenate(parts, axis=1)
