"""The checkpoints of an unfinished entry, at a URL: a stage whose machine was lost continues on another one.

`<folder>/index.json` names the files with their checksums; each lies beside it under its checksum as name. So
a file that is there already is not sent again, the index is written last, and what is fetched is what was
saved together, or nothing.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from nenni_core.files import sha256_of
from pipeline.remote_files import RemoteFolder

INDEX = "index.json"


class Index(BaseModel):
    """What belongs to one saved state."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    files: Mapping[str, str]
    """SHA-256 by name, relative to the scratch folder."""


def save(remote: RemoteFolder, folder: str, scratch: Path, saved: Mapping[str, str]) -> Mapping[str, str]:
    """Make the state at `folder` that of the local folder `scratch`; returns its files, for the next call.

    `saved` is what the call before returned, or nothing. All that was there and is not part of it is removed.
    """
    files = {path.relative_to(scratch).as_posix(): sha256_of(path) for path in _whole_files(scratch)}
    if files == saved:
        return saved
    there = set(saved.values())
    remote.make_folder(folder)
    for name, digest in files.items():
        if digest not in there:
            remote.upload(scratch / name, f"{folder}/{digest}")
            there.add(digest)
    remote.write(f"{folder}/{INDEX}", Index(files=files).model_dump_json().encode())
    for file in remote.files(folder):
        if file.name.rpartition("/")[2] not in {INDEX, *files.values()}:
            remote.remove(file.name)
    return files


def fetch(remote: RemoteFolder, folder: str, scratch: Path) -> Mapping[str, str]:
    """Put the state at `folder` into the local folder `scratch`, which is not there yet; returns its files.

    Nothing is put there, and nothing returned, if there is no state, or not all of it is what was saved.
    """
    content = remote.read(f"{folder}/{INDEX}")
    if content is None:
        return {}
    coming = scratch.with_name(f".{scratch.name}.coming")
    shutil.rmtree(coming, ignore_errors=True)
    try:
        index = Index.model_validate_json(content)
        for name, digest in index.files.items():
            target = inside(coming, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            remote.download(f"{folder}/{digest}", target)
            if sha256_of(target) != digest:
                return {}
    except (ValidationError, FileNotFoundError, ValueError):
        return {}
    coming.rename(scratch)
    return index.files


def inside(folder: Path, name: str) -> Path:
    """The path of `name` in `folder`; `ValueError` if it leads out of it, as only an intruder's would."""
    path = folder / name
    if not name or not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{name!r} is outside of its folder")
    return path


def _whole_files(scratch: Path) -> list[Path]:
    """All files but those that an interrupted write has left under another name."""
    files = (path for path in scratch.rglob("*") if path.is_file())
    return sorted(path for path in files if not path.name.startswith(".") and path.suffix != ".partial")
