"""Small stand-ins for the binary versions of CIFAR, and an independent reading of them."""

import dataclasses
import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from nenni_core.data.cifar import CIFAR10, CIFAR100, CifarLayout, RecordFile, load_cifar
from nenni_core.data.download import RemoteFile
from nenni_core.errors import InputError

TRAIN_RECORDS, TEST_RECORDS = 7, 4


def shrunk(layout: CifarLayout) -> CifarLayout:
    """The same files with a few records each."""
    return dataclasses.replace(
        layout,
        train_files=tuple(RecordFile(name=f.name, records=TRAIN_RECORDS) for f in layout.train_files),
        test_files=tuple(RecordFile(name=f.name, records=TEST_RECORDS) for f in layout.test_files),
    )


SMALL = {"cifar10": shrunk(CIFAR10), "cifar100": shrunk(CIFAR100)}


def contents(layout: CifarLayout) -> dict[str, bytes]:
    """Random records for every file of the layout, and class names; the same for each call."""
    rng = np.random.default_rng(0)
    files = {}
    for file in layout.record_files:
        labels = [rng.integers(0, n, (file.records, 1)) for n in layout.label_classes]
        pixels = rng.integers(0, 256, (file.records, 3072))
        files[file.name] = np.hstack([*labels, pixels]).astype(np.uint8).tobytes()
    names = [f"class {i}" for i in range(layout.label_classes[-1])]
    files[layout.names_file] = ("\n".join(names) + "\n\n").encode()
    return files


def write_folder(root: Path, layout: CifarLayout, files: dict[str, bytes]) -> Path:
    folder = root / layout.folder
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def pack(layout: CifarLayout, files: dict[str, bytes]) -> bytes:
    """A tar.gz as the official ones: a folder, then its files, and a readme that nobody asks for."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        folder = tarfile.TarInfo(layout.folder)
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, content in {"readme.html": b"<html>", **files}.items():
            member = tarfile.TarInfo(f"{layout.folder}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def published(layout: CifarLayout, archive: bytes, url: str | None = None) -> CifarLayout:
    """The layout, with `archive` as what its publisher offers."""
    remote = RemoteFile(
        url=url or layout.archive.url,
        size_bytes=len(archive),
        md5=hashlib.md5(archive).hexdigest(),
        sha256=hashlib.sha256(archive).hexdigest(),
    )
    return dataclasses.replace(layout, archive=remote)


def check_pixels(layout: CifarLayout, files: dict[str, bytes], **where: Path) -> None:
    """Every byte is where the layout says, by an independent, slow reading."""
    data = load_cifar(layout, **({"cache_dir": Path("unused")} | where))
    for split, record_files in (("train", layout.train_files), ("test", layout.test_files)):
        images, labels = getattr(data, f"{split}_images"), getattr(data, f"{split}_labels")
        assert images.flags.c_contiguous
        index = 0
        for file in record_files:
            content, record = files[file.name], layout.record_bytes
            for i in range(file.records):
                header = len(layout.label_classes)
                assert labels[index] == content[i * record + header - 1]
                for channel, row, column in ((0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 5, 9), (2, 31, 31)):
                    offset = header + channel * 1024 + row * 32 + column
                    assert images[index, channel, row, column] == content[i * record + offset]
                index += 1
        assert len(images) == len(labels) == index
    assert data.class_names == tuple(f"class {i}" for i in range(layout.label_classes[-1]))


def one_line(caught: pytest.ExceptionInfo[InputError], *parts: str) -> None:
    """The message is one line and holds all `parts`."""
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message
