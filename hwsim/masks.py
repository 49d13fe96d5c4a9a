"""Which neurons are essential: masks that were measured, drawn, or are all ones.

A mask has one row for each output position (image, row and column in row-major order) and one column for each
output channel; True is a neuron that is computed precisely. On disk eight channels make a byte, the first
one its highest bit (`numpy.packbits`), and a network's masks are one safetensors file.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from hwsim.errors import InputError
from hwsim.layers import Layer

Mask = NDArray[np.bool_]
"""(positions, channels)."""

FORMAT = "hwsim_masks_1"
"""Where safetensors metadata say what the masks are of."""


@dataclass(frozen=True)
class Pattern:
    """Structured noise N:M: `noisy` of every `group` consecutive channels of a position get noise."""

    noisy: int
    group: int

    @classmethod
    def parse(cls, text: str) -> "Pattern":
        """Read "N:M" with 0 <= N <= M and M >= 1; anything else is an `InputError`."""
        match = re.fullmatch(r"(\d+):(\d+)", text)
        if match is None:
            raise InputError(f"pattern {text!r} is not of the form 'N:M', for example '7:8'")
        noisy, group = int(match[1]), int(match[2])
        if group < 1 or noisy > group:
            raise InputError(
                f"pattern {text!r} asks for noise in {noisy} of {group} neurons; expected 0 <= N <= M"
            )
        return cls(noisy, group)

    def kept(self, size: int) -> int:
        """Essential neurons in a group of `size` channels; a short last group keeps its share, rounded up."""
        return -(-(self.group - self.noisy) * size // self.group)


def random_mask(
    layer: Layer,
    rng: np.random.Generator,
    *,
    ratio: float | None = None,
    pattern: Pattern | None = None,
    images: int = 1,
) -> Mask:
    """A mask of a given amount of noise in random places.

    With `ratio`, the share of neurons with noise, each image keeps exactly 1 - ratio of the layer's outputs,
    rounded up; with `pattern` each group of channels keeps what the pattern says.
    """
    if (ratio is None) == (pattern is None):
        raise InputError(
            f"expected either a ratio or a pattern, found ratio={ratio!r} and pattern={pattern!r}"
        )
    positions, channels = images * layer.positions, layer.out_channels
    if pattern is not None:
        parts = []
        for start in range(0, channels, pattern.group):
            size = min(pattern.group, channels - start)
            order = rng.random((positions, size), dtype=np.float32).argsort(axis=1)
            parts.append(order < pattern.kept(size))
        return np.concatenate(parts, axis=1)
    assert ratio is not None
    if not 0 <= ratio <= 1:
        raise InputError(f"ratio {ratio!r} is outside [0, 1]; it is the share of neurons that get noise")
    outputs = layer.output_values
    kept = kept_outputs(ratio, outputs)
    mask = np.zeros((images, outputs), dtype=np.bool_)
    for image in mask:
        if kept == outputs:
            image[:] = True
        elif kept:
            image[rng.random(outputs, dtype=np.float32).argpartition(kept)[:kept]] = True
    return mask.reshape(positions, channels)


def random_masks(
    layers: Iterable[Layer],
    rng: np.random.Generator,
    *,
    ratio: float | None = None,
    pattern: Pattern | None = None,
    images: int = 1,
) -> dict[str, Mask]:
    """`random_mask` of every layer, drawn one after the other, by the layers' names."""
    return {one.name: random_mask(one, rng, ratio=ratio, pattern=pattern, images=images) for one in layers}


def kept_outputs(ratio: float, outputs: int) -> int:
    """Essential ones of `outputs` neurons of which the share `ratio` gets noise, rounded up."""
    exact = (1 - Fraction(str(ratio))) * outputs
    return -(-exact.numerator // exact.denominator)


def pack(mask: Mask) -> NDArray[np.uint8]:
    """Eight channels a byte; a last, shorter byte is filled with zeros."""
    return np.packbits(mask, axis=1)


def unpack(packed: NDArray[np.uint8], channels: int) -> Mask:
    """The inverse of `pack`."""
    return np.unpackbits(packed, axis=1, count=channels).view(np.bool_)


def save_masks(path: Path, masks: Mapping[str, Mask], *, images: int, about: Mapping[str, str]) -> None:
    """Write the masks of a network's layers, by name. `about` says what they are of, as text."""
    # one text, because the order in which safetensors writes several is not fixed
    header = json.dumps({"images": images, "about": dict(about)}, sort_keys=True)
    save_file({name: pack(mask) for name, mask in masks.items()}, path, {FORMAT: header})


@dataclass(frozen=True)
class MaskFile:
    """Masks of some images, as they were saved."""

    images: int
    about: Mapping[str, str]
    """What they are of; "noise", "pattern" and "noisy_share" are read back, if they are there."""
    masks: Mapping[str, Mask]

    @property
    def pattern(self) -> Pattern | None:
        """The pattern that the masks follow, if any."""
        return Pattern.parse(self.about["pattern"]) if "pattern" in self.about else None

    @property
    def noisy_share(self) -> float:
        """Share of the neurons that get noise as configured, or where that is not said, as counted."""
        if "noisy_share" in self.about:
            return float(self.about["noisy_share"])
        kept = sum(int(mask.sum()) for mask in self.masks.values())
        return 1 - kept / sum(mask.size for mask in self.masks.values())


def load_masks(path: Path, layers: Sequence[Layer]) -> MaskFile:
    """Read the masks of `layers`.

    Raises:
        InputError: no such file, not a file of masks, a layer that it lacks or does not know, or a mask of
            another shape.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            header = _header(path, (file.metadata() or {}).get(FORMAT, ""))
            packed = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError) as error:
        raise InputError(f"{str(path)!r} cannot be read as a file of masks: {error}") from None
    images, about = header
    names = [layer.name for layer in layers]
    for name in packed.keys() - set(names):
        raise InputError(f"{path}: has a mask of layer {name!r}, which the network lacks")
    masks = {}
    for layer in layers:
        if layer.name not in packed:
            raise InputError(
                f"{path}: has no mask of layer {layer.name!r}; found: {', '.join(sorted(packed))}"
            )
        expected = images * layer.positions, -(-layer.out_channels // 8)
        bits = packed[layer.name]
        if bits.shape != expected or bits.dtype != np.uint8:
            raise InputError(
                f"{path}: mask of layer {layer.name!r} is {bits.dtype} {bits.shape}; expected bytes "
                f"{expected} for {images} images, {layer.positions} positions, {layer.out_channels} channels"
            )
        masks[layer.name] = unpack(bits, layer.out_channels)
    found = MaskFile(images, about, masks)
    try:
        _ = found.pattern
        if not 0 <= found.noisy_share <= 1:
            raise InputError(f"noisy_share {found.noisy_share!r} is outside [0, 1]")
    except ValueError as error:  # an `InputError` is one too
        raise InputError(f"{path}: {error}") from None
    return found


def _header(path: Path, text: str) -> tuple[int, dict[str, str]]:
    try:
        header = json.loads(text)
        images, about = header["images"], header["about"]
    except (ValueError, KeyError, TypeError):
        images, about = None, None
    texts = isinstance(about, dict) and all(isinstance(text, str) for text in about.values())
    if type(images) is not int or images < 1 or not texts:
        raise InputError(f"{path}: not a file of masks; expected metadata {FORMAT!r} with their images")
    return images, about


def check_mask(layer: Layer, mask: Mask, images: int) -> None:
    """Raise `InputError` unless `mask` has the shape that `layer` needs for `images`."""
    expected = images * layer.positions, layer.out_channels
    if mask.shape != expected or mask.dtype != np.bool_:
        raise InputError(
            f"mask of layer {layer.name!r} is {mask.dtype} {mask.shape}; expected bool {expected}: "
            f"{images} x {layer.positions} positions, {layer.out_channels} channels"
        )
