"""Time, energy and efficiency over the amount of noise (paper figure 5)."""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hwsim.errors import InputError
from hwsim.hardware import Hardware
from hwsim.layers import Layer
from hwsim.masks import Mask, Pattern, random_masks
from hwsim.results import NetworkResult
from hwsim.simulate import simulate_network
from hwsim.technology import Technology

RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99)
PATTERNS = ("1:8", "2:8", "3:8", "4:8", "5:8", "6:8", "7:8")

FIGURES = {
    "seconds": "time",
    "joules": "energy",
    "energy_delay_joule_seconds": "energy x time",
    "operations_per_joule": "efficiency",
    "operations_per_second_mm2": "efficiency of the area",
}
"""What is compared with the dense network, and what people call it."""

Origin = Literal["none", "random", "measured"]
"""Where masks are from; the dense network has none."""


@dataclass(frozen=True, kw_only=True)
class Noise:
    """An amount of noise, with masks that were measured or that are to be drawn."""

    label: str
    """As in tables: "90%", "7:8" or "dense"."""
    pattern: Pattern | None
    """None for a ratio, which only cores for any mask can run, and for the dense network."""
    share: float
    """Share of the neurons that get noise, as configured."""
    masks: Mapping[str, Mask]
    images: int
    origin: Origin


@dataclass(frozen=True, kw_only=True)
class Point:
    """One simulation and the dense network that it is compared with."""

    result: NetworkResult
    dense: NetworkResult
    noise: Noise

    @property
    def relative(self) -> dict[str, float]:
        """The figures over those of the dense network, for as many images."""
        own, dense = self.result.summary(), self.dense.summary()
        return {name: own[name] / dense[name] for name in FIGURES}

    def row(self) -> dict[str, Any]:
        """One line of a table."""
        result = self.result
        return {
            "network": result.network,
            "noise": self.noise.label,
            "noisy_share": self.noise.share,
            "density": result.density,
            "masks": self.noise.origin,
            "images": result.images,
            "core": result.hardware.name,
            "technology": result.technology,
            **result.summary(),
            **{f"{name}_over_dense": value for name, value in self.relative.items()},
        }


def random_noise(layers: Sequence[Layer], amount: float | str, *, seed: int = 0, images: int = 1) -> Noise:
    """Masks of all layers in random places; `amount` is a ratio or a pattern "N:M".

    Equal seeds give equal masks, whatever else was drawn before.
    """
    if seed < 0:
        raise InputError(f"seed is {seed}; expected a whole number from 0 on")
    rng = np.random.default_rng(seed)
    pattern = None
    if isinstance(amount, str):
        pattern = Pattern.parse(amount)
        masks = random_masks(layers, rng, pattern=pattern, images=images)
        share, label = pattern.noisy / pattern.group, amount
    else:
        masks = random_masks(layers, rng, ratio=amount, images=images)
        share, label = amount, f"{round(100 * amount, 9):g}%"
    return Noise(
        label=label,
        pattern=pattern,
        share=share,
        masks=masks,
        images=images,
        origin="random",
    )


def no_noise(images: int) -> Noise:
    """The dense network: no layer has a mask."""
    return Noise(label="dense", pattern=None, share=0.0, masks={}, images=images, origin="none")


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a table that `sweep` or the pipeline's simulation wrote.

    Raises:
        InputError: no such file, a column that a picture needs is missing, or there is no row.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows, columns = list(reader), list(reader.fieldnames or ())
    except OSError as error:
        raise InputError(f"{str(path)!r}: {error.strerror}; expected a table of simulations") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a table of simulations: {error}") from None
    needed = ["network", "noise", "noisy_share", "core", "masks", *(f"{name}_over_dense" for name in FIGURES)]
    for column in needed:
        if column not in columns:
            raise InputError(f"{path}: not a table of simulations: column {column!r} is missing")
    if not rows:
        raise InputError(f"{path}: has no simulation; expected at least one line after the heading")
    return rows


def can_run(core: Hardware, pattern: Pattern | None) -> bool:
    """Whether a core can make such masks: any, or as many of each group as the core selects."""
    if core.selection == "threshold":
        return True
    return pattern is not None and core.group_channels % pattern.group == 0


def sweep(
    network: str,
    layers: Sequence[Layer],
    noises: Sequence[Callable[[], Noise]],
    cores: Sequence[Hardware],
    technology: Technology,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Point]:
    """The dense network on every core, then every amount of noise on every core that can run it.

    All of it is compared with the dense network on the first core, for as many images; where amounts differ
    in their number of images, the dense network comes once for each number.

    Args:
        network: what the results are called.
        layers: of the network.
        noises: each is made when its turn comes, and let go: masks of many images take memory.
        cores: designs; the first one is what everything is compared with.
        technology: what things cost.
        progress: called with the amounts done and their number.
    """
    dense: dict[int, NetworkResult] = {}
    points: list[Point] = []
    for done, make in enumerate(noises):
        progress(done, len(noises))
        noise = make()
        chosen = [noise] if noise.images in dense else [no_noise(noise.images), noise]
        for one in chosen:
            for core in cores:
                if one.origin != "none" and not can_run(core, one.pattern):
                    continue
                result = simulate_network(
                    layers,
                    core,
                    technology,
                    one.masks,
                    images=one.images,
                    network=network,
                    noise=one.label,
                )
                points.append(Point(result=result, dense=dense.setdefault(one.images, result), noise=one))
    progress(len(noises), len(noises))
    return points
