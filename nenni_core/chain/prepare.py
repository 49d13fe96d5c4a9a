"""Stage `prepare`: the data set as plain arrays with a manifest, split into train, validation and test.

Writes `arrays.safetensors` (images uint8, labels int64) and `dataset.json` (class names, counts, channel
statistics, where the data is from, SHA-256 of each array).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from nenni_core.chain.artifacts import save_prepared
from nenni_core.chain.runtime import Runtime
from nenni_core.data import load_dataset, split_validation, subset


@dataclass(frozen=True, kw_only=True)
class PrepareSettings:
    """What the prepared data are a function of, beside the data set's content."""

    dataset: str
    train_images: int | None
    """Class-balanced limit before the split; None for all."""
    test_images: int | None
    validation_images: int
    """Held out of the training images."""


def prepare(
    settings: PrepareSettings, inputs: Mapping[str, Path], out: Path, *, seed: int, runtime: Runtime
) -> dict[str, float]:
    """Load, limit and split the data set; `seed` is the split's.

    Raises `InputError` if the data is missing or damaged, or has fewer images than asked for.
    """
    raw = load_dataset(settings.dataset, path=runtime.data_path, on_progress=runtime.progress)
    if settings.train_images is not None:
        chosen = subset(raw.train_labels, settings.train_images, seed)
        raw = replace(raw, train_images=raw.train_images[chosen], train_labels=raw.train_labels[chosen])
    if settings.test_images is not None:
        chosen = subset(raw.test_labels, settings.test_images, seed)
        raw = replace(raw, test_images=raw.test_images[chosen], test_labels=raw.test_labels[chosen])
    train, validation = split_validation(raw.train_labels, settings.validation_images, seed)
    counts = save_prepared(out, raw, train, validation)
    return {f"images/{split}": float(count) for split, count in counts.items()} | {
        "classes": float(raw.num_classes)
    }
