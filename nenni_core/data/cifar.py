"""CIFAR-10 and CIFAR-100 in their official *binary versions*, Krizhevsky 2009.

Layout (https://www.cs.toronto.edu/~kriz/cifar.html): files of records without a header. A record is one
byte per label (CIFAR-10: one; CIFAR-100: coarse, then fine), then 3,072 bytes of pixels: the red, green
and blue planes of a 32x32 image, each row by row. The Python version is not read: it is a pickle.
"""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from nenni_core.data.download import RemoteFile, fetch, mismatch
from nenni_core.data.fingerprints import hash_files
from nenni_core.data.raw import RawDataset, check_labels
from nenni_core.errors import InputError
from nenni_core.progress import ProgressCallback, silent

CHANNELS, SIZE = 3, 32
PIXEL_BYTES = CHANNELS * SIZE * SIZE


@dataclass(frozen=True, kw_only=True)
class RecordFile:
    """One file of records."""

    name: str
    records: int


@dataclass(frozen=True, kw_only=True)
class CifarLayout:
    """What a binary version consists of; tests give smaller ones."""

    name: str
    """Key in `DATASETS`."""
    folder: str
    """Where the archive has its files."""
    train_files: tuple[RecordFile, ...]
    test_files: tuple[RecordFile, ...]
    label_classes: tuple[int, ...]
    """Classes of each label byte of a record; the last label is the one that is used."""
    names_file: str
    """One class name a line, for the label that is used."""
    archive: RemoteFile

    @property
    def record_bytes(self) -> int:
        return len(self.label_classes) + PIXEL_BYTES

    @property
    def record_files(self) -> tuple[RecordFile, ...]:
        return self.train_files + self.test_files

    @property
    def file_names(self) -> tuple[str, ...]:
        return (*(file.name for file in self.record_files), self.names_file)


CIFAR10 = CifarLayout(
    name="cifar10",
    folder="cifar-10-batches-bin",
    train_files=tuple(RecordFile(name=f"data_batch_{i}.bin", records=10_000) for i in range(1, 6)),
    test_files=(RecordFile(name="test_batch.bin", records=10_000),),
    label_classes=(10,),
    names_file="batches.meta.txt",
    archive=RemoteFile(
        url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        size_bytes=170_052_171,
        md5="c32a1d4ab5d03f1284b67883e8d87530",
        sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    ),
)

CIFAR100 = CifarLayout(
    name="cifar100",
    folder="cifar-100-binary",
    train_files=(RecordFile(name="train.bin", records=50_000),),
    test_files=(RecordFile(name="test.bin", records=10_000),),
    label_classes=(20, 100),
    names_file="fine_label_names.txt",
    archive=RemoteFile(
        url="https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        size_bytes=168_513_733,
        md5="03b5dce01913d631647c71ecec9e9cb8",
        sha256="58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
    ),
)


def load_cifar(
    layout: CifarLayout,
    *,
    path: Path | None = None,
    cache_dir: Path,
    on_progress: ProgressCallback = silent,
) -> RawDataset:
    """Read a binary version; nothing is unpacked to disk.

    Args:
        layout: which one.
        path: the official archive, its unpacked folder, or a folder that holds either. The archive must
            have the published checksums. An unpacked folder is checked for its layout alone, so that
            other pixels (re-encoded copies, say) can be used in it; the data's `source` tells them apart.
        cache_dir: where the archive is looked for and downloaded to when `path` is None.
        on_progress: told of bytes while downloading, of files while reading.

    Raises:
        InputError: nothing at `path`, a missing or wrong file, a label without a class, or a failed download.
        OSError: a file cannot be read.
    """
    if path is None:
        path = fetch(layout.archive, cache_dir, on_progress)
        folder = None
    else:
        path, folder = _locate(path, layout)
        if folder is None:
            _check_archive(path, layout)
    if folder is None:
        files, source = _archive_members(path, layout), f"{layout.archive.name}, the official archive"
    else:
        files, source = (
            _folder_files(folder, layout),
            f"a local folder in the layout of {layout.archive.name}",
        )

    names: tuple[str, ...] = ()
    parts: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    expected = {file.name: file for file in layout.record_files}
    for done, (name, where, content) in enumerate(files, start=1):
        if name == layout.names_file:
            names = _class_names(where, content, layout)
        else:
            parts[name] = _records(where, content, expected[name], layout)
        on_progress(f"reading {layout.name}", done, len(layout.file_names))

    train_images, train_labels = _joined(parts, layout.train_files)
    test_images, test_labels = _joined(parts, layout.test_files)
    return RawDataset(
        name=layout.name,
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        class_names=names,
        source=source,
    )


def fingerprint_cifar(layout: CifarLayout, *, path: Path | None = None) -> str:
    """SHA-256 of what `load_cifar` would read: of the archive, or of the names and bytes of a folder's files.

    Without a path it is the published archive's, known without downloading it.

    Raises:
        InputError: nothing of this layout at `path`.
        OSError: a file cannot be read.
    """
    if path is None:
        return layout.archive.sha256
    path, folder = _locate(path, layout)
    if folder is None:
        _check_archive(path, layout)
        return layout.archive.sha256
    for name in layout.file_names:
        _require_file(folder / name, layout)
    return hash_files((name, folder / name) for name in layout.file_names)


def _locate(path: Path, layout: CifarLayout) -> tuple[Path, Path | None]:
    """`path` itself or what it holds: (archive, None), or (path, unpacked folder)."""
    if path.is_file():
        return path, None
    if path.is_dir():
        for folder in (path, path / layout.folder):
            if any((folder / name).is_file() for name in layout.file_names):
                return path, folder
        if (path / layout.archive.name).is_file():
            return path / layout.archive.name, None
    found = "a folder without it" if path.is_dir() else "nothing there"
    raise InputError(
        f"{layout.name}: no data at {str(path)!r} ({found}); expected {layout.archive.name}, its unpacked"
        f" folder {layout.folder} with {layout.file_names[0]}, or a folder that holds either"
    )


def _check_archive(path: Path, layout: CifarLayout) -> None:
    problem = mismatch(path, layout.archive)
    if problem is not None:
        raise InputError(
            f"{layout.name}: {str(path)!r} is not the official {layout.archive.name}: it has {problem}."
            f" An unpacked folder {layout.folder} is accepted without checksums"
        )


def _archive_members(path: Path, layout: CifarLayout) -> Iterator[tuple[str, str, bytes]]:
    """Name, description and content of each expected file, in the order of the archive.

    Members are streamed to memory: nothing is extracted, so their paths and links do not matter.
    """
    missing = set(layout.file_names)
    with tarfile.open(path, "r|gz") as archive:
        for member in archive:
            folder, _, name = member.name.removeprefix("./").rpartition("/")
            if folder != layout.folder or name not in missing or not member.isfile():
                continue
            stream = archive.extractfile(member)
            assert stream is not None
            missing.remove(name)
            yield name, f"{path.name}: {name}", stream.read(_enough_bytes(layout, name))
    if missing:
        raise InputError(
            f"{layout.name}: {str(path)!r} lacks {layout.folder}/{min(missing)}; expected it inside"
        )


def _folder_files(folder: Path, layout: CifarLayout) -> Iterator[tuple[str, str, bytes]]:
    """Name, description and content of each expected file."""
    for name in layout.file_names:
        _require_file(folder / name, layout)
        with (folder / name).open("rb") as stream:
            content = stream.read(_enough_bytes(layout, name))
        yield name, str(folder / name), content


def _require_file(path: Path, layout: CifarLayout) -> None:
    if not path.is_file():
        raise InputError(
            f"{layout.name}: {str(path)!r} is missing; expected {', '.join(layout.file_names)} in that folder"
        )


def _enough_bytes(layout: CifarLayout, name: str) -> int:
    """One byte more than the layout allows in this file: a wrong file may be of any size."""
    records = max((file.records for file in layout.record_files if file.name == name), default=1)
    return records * layout.record_bytes + 1


def _records(
    where: str, content: bytes, file: RecordFile, layout: CifarLayout
) -> tuple[UInt8[np.ndarray, "records 3 32 32"], Int64[np.ndarray, " records"]]:
    """Pixels and labels of one file of records."""
    if len(content) != file.records * layout.record_bytes:
        longer = len(content) > file.records * layout.record_bytes
        size = f"more than {len(content) - 1:,}" if longer else f"{len(content):,}"
        raise InputError(
            f"{layout.name}: {where} has {size} bytes; expected {file.records * layout.record_bytes:,}"
            f" ({file.records:,} records of {layout.record_bytes:,})"
        )
    records = np.frombuffer(content, np.uint8).reshape(file.records, layout.record_bytes)
    labels = records[:, : len(layout.label_classes)].astype(np.int64)
    for column, classes in enumerate(layout.label_classes):
        check_labels(f"{layout.name}: {where}:", labels[:, column], classes)
    images = records[:, len(layout.label_classes) :].reshape(-1, CHANNELS, SIZE, SIZE)
    return images, labels[:, -1]


def _class_names(where: str, content: bytes, layout: CifarLayout) -> tuple[str, ...]:
    """The lines of the names file; the official ones end in empty lines."""
    classes = layout.label_classes[-1]
    try:
        names = tuple(line.strip() for line in content.decode("ascii").splitlines() if line.strip())
    except UnicodeDecodeError as error:
        raise InputError(f"{layout.name}: {where} is not text; expected {classes} class names") from error
    if len(names) != classes:
        raise InputError(
            f"{layout.name}: {where} has {len(names)} class names; expected {classes}, one a line"
        )
    return names


def _joined(
    parts: dict[str, tuple[np.ndarray, np.ndarray]], files: tuple[RecordFile, ...]
) -> tuple[UInt8[np.ndarray, "images 3 32 32"], Int64[np.ndarray, " images"]]:
    images, labels = zip(*(parts.pop(file.name) for file in files), strict=True)
    return np.concatenate(images), np.concatenate(labels)
