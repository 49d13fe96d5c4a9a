"""Data sets as plain arrays: `load_dataset("cifar10")`.

A new data set is one module and one entry of `DATASETS`. Nothing here unpickles.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from nenni_core.data import cifar, digits, synthetic
from nenni_core.data.convert import channel_statistics, to_float
from nenni_core.data.fingerprints import hash_arrays
from nenni_core.data.raw import RawDataset
from nenni_core.data.split import split_validation, subset
from nenni_core.errors import InputError, unknown_choice
from nenni_core.progress import ProgressCallback, silent

__all__ = [
    "DATASETS",
    "DatasetSource",
    "Extent",
    "RawDataset",
    "channel_statistics",
    "dataset_extent",
    "default_cache_dir",
    "fingerprint",
    "load_dataset",
    "split_validation",
    "subset",
    "to_float",
]


@dataclass(frozen=True, kw_only=True)
class Extent:
    """How large a data set is, before anything of it is read or downloaded."""

    train_images: int
    test_images: int
    image_shape: tuple[int, int, int]
    """Channels, height, width."""
    num_classes: int


@dataclass(frozen=True, kw_only=True)
class DatasetSource:
    """Where one data set comes from."""

    load: Callable[[Path | None, Path, ProgressCallback], RawDataset]
    """Called with the user's path or None, the folder for downloads, and who is told of progress."""
    fingerprint: Callable[[Path | None], str]
    """SHA-256 hex of the content that `load` would give, without a download."""
    extent: Callable[[], Extent]
    """What `load` gives where it is the whole data set."""


def _embedded(name: str, generate: Callable[[], RawDataset]) -> DatasetSource:
    """A source that needs neither files nor a network."""

    def load(path: Path | None, cache_dir: Path, on_progress: ProgressCallback) -> RawDataset:
        if path is not None:
            raise InputError(
                f"data set {name!r} is not read from files: path is {str(path)!r}; expected none"
            )
        return generate()

    def extent() -> Extent:
        data = generate()
        return Extent(
            train_images=len(data.train_labels),
            test_images=len(data.test_labels),
            image_shape=data.image_shape,
            num_classes=data.num_classes,
        )

    return DatasetSource(
        load=load,
        fingerprint=lambda path: hash_arrays(load(path, default_cache_dir(), silent)),
        extent=extent,
    )


def _cifar(layout: cifar.CifarLayout) -> DatasetSource:
    def load(path: Path | None, cache_dir: Path, on_progress: ProgressCallback) -> RawDataset:
        return cifar.load_cifar(layout, path=path, cache_dir=cache_dir, on_progress=on_progress)

    extent = Extent(
        train_images=sum(file.records for file in layout.train_files),
        test_images=sum(file.records for file in layout.test_files),
        image_shape=(cifar.CHANNELS, cifar.SIZE, cifar.SIZE),
        num_classes=layout.label_classes[-1],
    )
    return DatasetSource(
        load=load,
        fingerprint=lambda path: cifar.fingerprint_cifar(layout, path=path),
        extent=lambda: extent,
    )


DATASETS: dict[str, DatasetSource] = {
    "digits": _embedded("digits", digits.load_digits),
    "cifar10": _cifar(cifar.CIFAR10),
    "cifar100": _cifar(cifar.CIFAR100),
    "synthetic": _embedded("synthetic", partial(synthetic.generate, synthetic.DEFAULT)),
}


def load_dataset(
    name: str,
    *,
    path: str | Path | None = None,
    cache_dir: str | Path | None = None,
    on_progress: ProgressCallback = silent,
) -> RawDataset:
    """Load the data set called `name`.

    Args:
        name: key of `DATASETS`.
        path: a local copy instead of a download (CIFAR: archive, unpacked folder, or what holds either).
        cache_dir: where downloads are kept; None for `default_cache_dir()`.
        on_progress: told of the progress of downloads and of reading.

    Raises:
        InputError: an unknown name, or data that is missing, damaged or of another layout.
    """
    folder = default_cache_dir() if cache_dir is None else Path(cache_dir)
    with _reading(name):
        return _source(name).load(None if path is None else Path(path), folder, on_progress)


def fingerprint(name: str, *, path: str | Path | None = None) -> str:
    """SHA-256 hex that identifies the content of `load_dataset(name, path=path)`; downloads nothing.

    The published archive's checksum for what is downloaded, a hash of the files for a local copy, of the
    arrays for embedded and generated data.

    Raises:
        InputError: an unknown name, or no such data at `path`.
    """
    with _reading(name):
        return _source(name).fingerprint(None if path is None else Path(path))


@cache
def dataset_extent(name: str) -> Extent:
    """How large a data set is; nothing is downloaded. Raises `InputError` for an unknown name."""
    return _source(name).extent()


def default_cache_dir() -> Path:
    """`nenni` in the user's cache folder: $XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nenni"


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Failures of the file system, no permission for example, are the user's to mend."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{name}: cannot read {error.filename!r}: {error.strerror or error}; expected a readable file"
        ) from error


def _source(name: str) -> DatasetSource:
    if name not in DATASETS:
        raise unknown_choice("data set", name, list(DATASETS))
    return DATASETS[name]
