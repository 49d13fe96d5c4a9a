"""Files from the network: checked before they get their name, so that a reader never sees half of one."""

import hashlib
import os
import tempfile
import urllib.error
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO

from nenni_core.errors import InputError
from nenni_core.progress import ProgressCallback, silent

CHUNK_BYTES = 1 << 20
TIMEOUT_SECONDS = 30.0
"""Longest wait for the server's next bytes."""


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A published file and how to know it."""

    url: str
    size_bytes: int
    md5: str
    """As its publisher prints it."""
    sha256: str

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[-1]


def fetch(remote: RemoteFile, cache_dir: Path, on_progress: ProgressCallback = silent) -> Path:
    """The path of `remote` in `cache_dir`; downloaded if it is not there or not whole.

    The bytes go to a temporary file beside the target, which gets its name only after size and
    checksums were found right, and is removed otherwise.

    Raises:
        InputError: no connection, an HTTP error, too few or other bytes than published, a folder that
            cannot be written.
    """
    target = cache_dir / remote.name
    if target.is_file() and mismatch(target, remote) is None:
        return target
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        handle, temporary_name = tempfile.mkstemp(dir=cache_dir, prefix=f"{remote.name}.", suffix=".part")
    except OSError as error:
        raise InputError(
            f"cannot write to the cache folder {str(cache_dir)!r}: {error.strerror or error}; expected a"
            " folder that can be written"
        ) from error
    temporary = Path(temporary_name)
    try:
        with os.fdopen(handle, "wb") as stream:
            _receive(remote, stream, on_progress)
            stream.flush()
            os.fsync(stream.fileno())
        problem = mismatch(temporary, remote)
        if problem is not None:
            raise InputError(f"{remote.url}: the download has {problem}; nothing was kept, try again")
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def mismatch(path: Path, remote: RemoteFile) -> str | None:
    """What is wrong with a copy of `remote`, as "... ; expected ..."; None if it is the published file."""
    size = path.stat().st_size
    if size != remote.size_bytes:
        return f"{size:,} bytes; expected {remote.size_bytes:,}"
    with path.open("rb") as stream:
        # md5 because that is what the publisher prints, sha256 because md5 can be forged
        md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
        while chunk := stream.read(CHUNK_BYTES):
            md5.update(chunk)
            sha256.update(chunk)
    for kind, found, expected in (
        ("md5", md5.hexdigest(), remote.md5),
        ("sha256", sha256.hexdigest(), remote.sha256),
    ):
        if found != expected:
            return f"{kind} {found}; expected {expected}"
    return None


def _receive(remote: RemoteFile, stream: BinaryIO, on_progress: ProgressCallback) -> None:
    description = f"downloading {remote.name}"
    received = 0
    try:
        with urllib.request.urlopen(remote.url, timeout=TIMEOUT_SECONDS) as response:
            on_progress(description, 0, remote.size_bytes)
            # One chunk too many is enough to know: an endless answer must not fill the disk.
            while received <= remote.size_bytes and (chunk := response.read(CHUNK_BYTES)):
                stream.write(chunk)
                received += len(chunk)
                on_progress(description, min(received, remote.size_bytes), remote.size_bytes)
    except urllib.error.HTTPError as error:
        error.close()  # it is the open connection as well
        raise InputError(
            f"{remote.url}: the server answered {error.code} {error.reason}; expected the file. Fetch it"
            " by other means and give its path"
        ) from error
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise InputError(
            f"{remote.url}: the download stopped after {received:,} of {remote.size_bytes:,} bytes"
            f" ({reason}). Try again, or fetch it by other means and give its path"
        ) from error
