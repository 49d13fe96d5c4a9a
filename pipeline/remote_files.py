"""Files behind a URL: on S3, Google or Azure storage, HDFS, or whatever else pyarrow or fsspec can reach.

Everything that can go wrong there is one line: `InputError` for what was asked for, `RemoteStoreError` for
what the other side does or does not do. Credentials come from where each service's own tools look for them
(the environment, configuration files), never from a URL, because URLs are printed and passed on.
"""

import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from nenni_core.errors import InputError, unknown_choice

S3_SCHEMES = ("s3",)
ARROW_SCHEMES = (*S3_SCHEMES, "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs", "file")
"""What pyarrow reaches by itself; fsspec is asked for all others."""
OBJECT_STORES = ("s3", "gcs", "abfs")
"""pyarrow's types of file systems whose files appear whole, and that have no folders and no renaming."""
CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 10.0
"""How long a server may be silent before an attempt is given up."""
ATTEMPTS = 3
REGION = "us-east-1"
"""What servers that are not Amazon's call theirs unless they are told otherwise."""
_SECRET = re.compile(r"secret|password|token|credential|signature|(^|_)key$", re.IGNORECASE)


class RemoteStoreError(OSError):
    """What is behind a URL does not answer, refuses, or fails; the message is one line."""


@dataclass(frozen=True)
class RemoteFile:
    """A file as a listing shows it."""

    name: str
    """Relative to the folder, with `/`."""
    modified: datetime | None


def without_secrets(url: str) -> str:
    """`url` as it may be shown: without a password, without its query."""
    parts = urlsplit(url)
    if not parts.netloc:  # put together again, sqlite:////tmp/a would lose two of its slashes
        return re.split("[?#]", url, maxsplit=1)[0]
    user = "" if _has_key(parts) or not parts.username else f"{parts.username}@"
    port = f":{parts.netloc.rpartition(':')[2]}" if re.search(r":\d+$", parts.netloc) else ""
    return urlunsplit((parts.scheme, f"{user}{parts.hostname or ''}{port}", parts.path, "", ""))


def check_no_secrets(url: str) -> None:
    """Raise `InputError` if a URL has a password or a key in it."""
    parts = urlsplit(url)
    secret = next((name for name, _ in parse_qsl(parts.query) if _SECRET.search(name)), None)
    if _has_key(parts) or secret is not None:
        raise InputError(
            f"the URL {without_secrets(url)!r} has credentials in it; expected none: they belong into the "
            "environment or the service's own configuration files (for S3: AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or ~/.aws/credentials)"
        )


def _has_key(parts: SplitResult) -> bool:
    """Whether there is a password before the host, or what S3 takes for a key."""
    return parts.password is not None or (parts.scheme.lower() in S3_SCHEMES and parts.username is not None)


class RemoteFolder:
    """A folder at a URL. Names of files in it are relative, with `/`.

    Raises `InputError` if nobody knows the scheme or the URL cannot be used, `RemoteStoreError` if what it
    names does not answer (after seconds) or refuses.
    """

    def __init__(self, url: str) -> None:
        check_no_secrets(url)
        self.url = without_secrets(url)
        self._files, path = _open(url)
        self._root = path.rstrip("/")
        if not self._root.strip("/"):
            raise InputError(f"store {self.url!r}: expected a bucket or a folder after the scheme")
        self._atomic = self._files.type_name in OBJECT_STORES
        with self._explained("look into it"):
            self._look()

    def _look(self) -> None:
        """Fails if the place cannot be used; that there is no folder yet is no failure."""
        from pyarrow.fs import FileSelector, FileType

        if not self._atomic and self._files.get_file_info(self._root).type is FileType.File:
            raise InputError(f"store {self.url!r} is a file; expected a folder")
        try:
            self._files.get_file_info(
                FileSelector(self._root)
            )  # on S3 the one question that tells a missing bucket from an empty one
        except FileNotFoundError:
            return

    @contextmanager
    def _explained(self, action: str) -> Iterator[None]:
        """Turn whatever the libraries raise into one line; a file that is not there stays what it is."""
        try:
            yield
        except (FileNotFoundError, InputError, RemoteStoreError):
            raise
        except Exception as error:  # each file system has exceptions of its own
            raise RemoteStoreError(f"store {self.url}: cannot {action}: {_reason(error)}") from error

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def make_folder(self, folder: str) -> None:
        """Let there be a folder; object stores have none."""
        if not self._atomic:
            with self._explained(f"write {folder}"):
                self._files.create_dir(self._path(folder), recursive=True)

    def read(self, name: str) -> bytes | None:
        """The content of a small file; None if there is none."""
        with self._explained(f"read {name}"):
            try:
                with self._files.open_input_stream(self._path(name)) as stream:
                    return stream.read()
            except FileNotFoundError:
                return None

    def write(self, name: str, content: bytes) -> None:
        """Put a small file in place, whole: a reader sees the old or the new one, never a part."""
        path = self._path(name)
        with self._explained(f"write {name}"):
            self.make_folder(name.rpartition("/")[0])
            target = path if self._atomic else f"{path}.{uuid.uuid4().hex}.part"
            with self._files.open_output_stream(target) as stream:
                stream.write(content)
            if target != path:
                self._files.move(target, path)

    def upload(self, local: Path, name: str) -> None:
        """Copy a local file there, into a folder that `make_folder` has made.

        A reader may see a part of it, so what makes use of it has to be written after it.
        """
        from pyarrow.fs import LocalFileSystem, copy_files

        with self._explained(f"write {name}"):
            copy_files(
                str(local),
                self._path(name),
                source_filesystem=LocalFileSystem(),
                destination_filesystem=self._files,
            )

    def download(self, name: str, local: Path) -> None:
        """Copy a file from there, into a folder that is there. Raises `FileNotFoundError` if it is not."""
        from pyarrow.fs import LocalFileSystem, copy_files

        with self._explained(f"read {name}"):
            copy_files(
                self._path(name),
                str(local),
                source_filesystem=self._files,
                destination_filesystem=LocalFileSystem(),
            )

    def files(self, folder: str) -> list[RemoteFile]:
        """All files in a folder and in those in it, sorted by name; none if it is not there."""
        from pyarrow.fs import FileSelector, FileType

        with self._explained(f"list {folder}"):
            selector = FileSelector(self._path(folder), allow_not_found=True, recursive=True)
            found = [info for info in self._files.get_file_info(selector) if info.type is FileType.File]
        start = len(self._root) + 1
        return sorted(
            (RemoteFile(info.path[start:], info.mtime) for info in found), key=lambda file: file.name
        )

    def remove(self, name: str) -> None:
        """Remove a file; nothing if it is not there."""
        with self._explained(f"remove {name}"):
            try:
                self._files.delete_file(self._path(name))
            except FileNotFoundError:
                return

    def remove_folder(self, folder: str) -> None:
        """Remove a folder and all in it; nothing if it is not there."""
        with self._explained(f"remove {folder}"):
            try:
                self._files.delete_dir(self._path(folder))
            except FileNotFoundError:
                return


def _open(url: str) -> tuple[Any, str]:
    """The file system that a URL names, and the path in it."""
    from pyarrow import ArrowException
    from pyarrow.fs import FileSystem, FSSpecHandler, PyFileSystem

    shown, scheme = without_secrets(url), urlsplit(url).scheme.lower()
    try:
        if scheme in S3_SCHEMES:
            return _open_s3(url)
        if scheme in ARROW_SCHEMES:
            return FileSystem.from_uri(_bounded(url))
    except InputError:
        raise
    except (ArrowException, ValueError) as error:
        raise InputError(f"store {shown!r} cannot be used: {_reason(error)}") from error
    except OSError as error:
        raise RemoteStoreError(f"store {shown} cannot be opened: {_reason(error)}") from error
    import fsspec

    known = sorted({*fsspec.available_protocols(), *ARROW_SCHEMES})
    if scheme not in known:
        raise unknown_choice("scheme of a store's URL", scheme, known)
    try:
        files, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise InputError(f"store {shown!r}: {_reason(error)}") from error
    except Exception as error:  # of the service's own library
        raise RemoteStoreError(f"store {shown} cannot be opened: {_reason(error)}") from error
    return PyFileSystem(FSSpecHandler(files)), path


def _bounded(url: str) -> str:
    """The URL with a limit on how long Google's client tries; its own is a quarter of an hour."""
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query))
    if parts.scheme.lower() not in ("gs", "gcs") or "retry_limit_seconds" in options:
        return url
    query = urlencode(options | {"retry_limit_seconds": f"{ATTEMPTS * ANSWER_SECONDS:.0f}"})
    return urlunsplit(parts._replace(query=query))


def _open_s3(url: str) -> tuple[Any, str]:
    """`FileSystem.from_uri` knows no time limits, so this reads the options of the URL itself.

    Where the URL names no server, AWS_ENDPOINT_URL does, and else it is Amazon's; likewise for the region.
    """
    from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem, resolve_s3_region

    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query))
    for name in options:
        if name not in ("endpoint_override", "region", "scheme"):
            raise unknown_choice("option of an S3 URL", name, ["endpoint_override", "region", "scheme"])
    bucket = unquote(parts.netloc)
    if not bucket:
        raise InputError(f"store {url!r}: expected the name of a bucket after s3://")
    server = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if server and "endpoint_override" not in options:
        options["scheme"], _, options["endpoint_override"] = server.rstrip("/").rpartition("://")
        options["scheme"] = options["scheme"] or "https"
    region = options.get("region") or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    options["region"] = region or (REGION if "endpoint_override" in options else resolve_s3_region(bucket))
    files = S3FileSystem(
        connect_timeout=CONNECT_SECONDS,
        request_timeout=ANSWER_SECONDS,
        retry_strategy=AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
        allow_delayed_open=True,  # small files in one request
        **options,
    )
    return files, f"{bucket}{unquote(parts.path)}"


_MEANINGS = {
    "NO_SUCH_BUCKET": "there is no such bucket",
    "INVALID_ACCESS_KEY_ID": "access is refused: the server does not know this access key",
    "SIGNATURE_DOES_NOT_MATCH": "access is refused: the secret key is not the access key's",
    "ACCESS_DENIED": "access is refused",
    "NETWORK_CONNECTION": "the server does not answer",
    "INTERNAL_FAILURE during ListObjectsV2 operation: \n": "access is refused: no credentials were found",
}


def _reason(error: BaseException) -> str:
    """What an exception says, in one line."""
    text = str(error)
    meaning = next((words for sign, words in _MEANINGS.items() if sign in f"{text}\n"), "")
    first_line = (text.splitlines() or [""])[0][:250] or type(error).__name__
    return f"{meaning} ({first_line})" if meaning else first_line
