"""SHA-256 of data: what content keys are made of."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from nenni_core.data.raw import RawDataset

CHUNK_BYTES = 1 << 20


def hash_files(files: Iterable[tuple[str, Path]]) -> str:
    """One hex digest of named files: their names, sizes and bytes, in the order given.

    Raises:
        OSError: a file cannot be read.
    """
    digest = hashlib.sha256()
    for name, path in files:
        digest.update(f"{name}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as stream:
            while chunk := stream.read(CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()


def hash_arrays(data: RawDataset) -> str:
    """One hex digest of a data set's class names, shapes, pixels and labels, equal on every machine."""
    digest = hashlib.sha256("\0".join(data.class_names).encode())
    for array in (data.train_images, data.train_labels, data.test_images, data.test_labels):
        digest.update(f"\0{array.dtype.newbyteorder('<').str}{array.shape}\0".encode())
        digest.update(array.astype(array.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()
