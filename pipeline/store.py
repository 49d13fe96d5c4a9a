"""The store: what every stage has computed, by content key.

`<root>/<stage>/<key>/` holds the files of one stage and `manifest.json`, which says what they are a function
of and their checksums. The store is the truth: a stage is done if and only if its entry is there.

- Work happens in `.partial/<stage>/<key>/`, which survives a kill, so that a stage can continue from its own
  checkpoints (in the sub-folder `SCRATCH`). A finished folder is made durable and renamed: a reader sees all
  of an entry or nothing.
- An entry is verified when it is read. A damaged one, or one whose inputs were computed again with another
  result, is moved to `.aside/`, reported, and computed again.
- `locked` keeps two processes from computing one key at the same time.

`open_store` opens one by the name that a user gives it: a folder, also on NFS, or a URL, whose store works in
a local folder and keeps the finished entries at the URL (`pipeline.remote_store`).

`python -m pipeline.store ls|verify|gc` lists, verifies and tidies a store; `import` adds results to it that
were computed elsewhere.
"""

import errno
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from nenni_core.chain.runtime import SCRATCH
from nenni_core.chain.speed import TIMING
from nenni_core.errors import InputError
from nenni_core.files import canonical_json, sha256_of, sync_file, sync_folder, write_json
from pipeline.experiment import STAGES
from pipeline.locks import BusyError, locked_file

MANIFEST = "manifest.json"


class FileRecord(BaseModel):
    """What the manifest says of one file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str
    size: int


class Manifest(BaseModel):
    """What an entry is a function of, where it comes from, and what is in it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = 2
    stage: str
    key: str
    stage_version: int
    config: dict[str, Any]
    seed: int
    upstream: dict[str, str]
    """Keys of the entries that it read, by stage."""
    upstream_digests: dict[str, str]
    """Their digests: what was read, where the key says what was wanted."""
    data_fingerprint: str
    metrics: dict[str, float]
    files: dict[str, FileRecord]
    git_commit: str
    git_dirty: bool
    code: str
    """`pipeline.provenance.code_digest` of the code that computed it."""
    versions: dict[str, str]
    device: str
    """Kind of device, such as "cpu" or "cuda": results are equal to the bit only on the same kind."""
    threads: int
    """CPU threads of PyTorch: their number can change how sums are rounded."""
    seconds: float
    """Wall time of all processes that worked on it (see `pipeline.attempt`)."""
    resumed: bool
    """Whether an earlier process had begun it."""
    imported_from: str = ""
    """Name of the device that computed it, where that was not the pipeline (`pipeline.imports`)."""
    checksum: str = ""
    """SHA-256 of the canonical JSON of all other fields."""

    def sealed(self) -> "Manifest":
        """This manifest with its checksum filled in."""
        return self.model_copy(update={"checksum": self._checksum()})

    def is_intact(self) -> bool:
        """Whether the fields are those that were sealed."""
        return self.checksum == self._checksum()

    def _checksum(self) -> str:
        values = self.content()
        del values["checksum"]
        return sha256(canonical_json(values).encode()).hexdigest()

    def content(self) -> dict[str, Any]:
        """What is written: fields that came later only where they say something, as older entries are."""
        values = self.model_dump()
        if not self.imported_from:
            del values["imported_from"]
        return values

    @property
    def digest(self) -> str:
        """SHA-256 over names and contents of the result files; equal for two equal computations."""
        contents = {name: record.sha256 for name, record in self.files.items() if name != TIMING}
        return sha256(canonical_json(contents).encode()).hexdigest()


@dataclass(frozen=True)
class Entry:
    """One finished stage: the folder with its files, and its manifest."""

    path: Path
    manifest: Manifest

    @property
    def metrics(self) -> dict[str, float]:
        """What the stage's `run` returned."""
        return self.manifest.metrics


class CorruptEntryError(Exception):
    """The files of an entry are not those that were stored."""


def read_manifest(content: bytes, stage: str | None = None, key: str | None = None) -> Manifest:
    """The manifest in the bytes of its file; raises `CorruptEntryError`, also if it is of another entry."""
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        raise CorruptEntryError(f"{MANIFEST} is not what was written") from error
    if not manifest.is_intact():
        raise CorruptEntryError(f"{MANIFEST} is not what was written")
    if key is not None and (manifest.stage, manifest.key) != (stage, key):
        raise CorruptEntryError(f"{MANIFEST} belongs to another entry")
    return manifest


def read_entry(path: Path) -> Entry:
    """The entry in a folder, every byte of it verified; raises `CorruptEntryError`."""
    try:
        content = (path / MANIFEST).read_bytes()
    except OSError as error:
        raise CorruptEntryError(f"{MANIFEST} is missing") from error
    manifest = read_manifest(content)
    for name, record in manifest.files.items():
        file = path / name
        if not file.is_file():
            raise CorruptEntryError(f"{name} is missing")
        if file.stat().st_size != record.size or sha256_of(file) != record.sha256:
            raise CorruptEntryError(f"{name} is not what was written")
    return Entry(path, manifest)


def open_store(
    location: str, report: Callable[[str], None] = lambda line: None, *, existing: bool = False
) -> "Store":
    """The store at a path or a URL; `existing`: it has to be there already.

    Raises `InputError` for a place that cannot be one, or (if `existing`) is none, and
    `pipeline.remote_files.RemoteStoreError` for a server that does not answer or refuses.
    """
    if "://" in location:
        from pipeline.remote_store import RemoteStore  # which is a `Store`

        store: Store = RemoteStore(location, report)
    else:
        root = Path(location)
        if root.exists() and not root.is_dir():
            raise InputError(f"store {location!r} is a file; expected a folder or a URL")
        store = Store(root, report)
    if existing and not store.exists():
        raise InputError(f"there is no store at {location!r}")
    return store


class Store:
    """A store in a local folder. `report` is told, in one line, of anything out of order."""

    def __init__(self, root: Path, report: Callable[[str], None] = lambda line: None) -> None:
        self.root = root
        self.report = report
        self._verified: dict[Path, tuple[tuple[int, int], Entry]] = {}

    @property
    def location(self) -> str:
        """What `open_store` opens it by; a path is relative to the working directory if it was given so."""
        return str(self.root)

    def exists(self) -> bool:
        """Whether anybody has ever written to it."""
        return self.root.is_dir()

    def contains(self, stage: str, key: str) -> bool:
        """Whether there is a finished entry; nothing is verified."""
        return (self.entry_path(stage, key) / MANIFEST).is_file()

    def refresh(self) -> None:
        """Look again at what may have changed behind the back of this object.

        Listing a folder makes NFS ask its server; a single name that was not there is remembered for a while.
        """
        for stage in STAGES:
            _folders(self.root / stage)

    def manifest(self, stage: str, key: str) -> Manifest | None:
        """The manifest of an entry, its files left alone; None if there is none, or a damaged one."""
        try:
            return read_manifest((self.entry_path(stage, key) / MANIFEST).read_bytes(), stage, key)
        except (OSError, CorruptEntryError):
            return None

    def entry_path(self, stage: str, key: str) -> Path:
        """Where the finished entry is, or would be."""
        return self.root / stage / key

    def partial_path(self, stage: str, key: str) -> Path:
        """Where the entry is being computed."""
        return self.root / ".partial" / stage / key

    def find(self, stage: str, key: str) -> Entry | None:
        """The verified entry; None if there is none, or a damaged one, which `recover` sets aside.

        Verification reads every byte, so a process does it once per entry.
        """
        try:
            return self._verify(stage, key)
        except CorruptEntryError:
            return None

    def _verify(self, stage: str, key: str) -> Entry | None:
        path = self.entry_path(stage, key)
        try:
            state = (path / MANIFEST).stat()
        except OSError as error:
            if path.is_dir():
                raise CorruptEntryError(f"{MANIFEST} is missing") from error
            return None
        identity = _identity(state)
        known = self._verified.get(path)
        if known is not None and known[0] == identity:
            return known[1]
        entry = read_entry(path)
        if (entry.manifest.stage, entry.manifest.key) != (stage, key):
            raise CorruptEntryError(f"{MANIFEST} belongs to another entry")
        self._verified[path] = identity, entry
        return entry

    def set_aside(self, stage: str, key: str, reason: str) -> None:
        """Move an entry that cannot be used to `.aside/` and report it. Hold the lock."""
        source = self.entry_path(stage, key)
        self._verified.pop(source, None)
        self._move_aside(source, stage, key, reason)

    def _move_aside(self, source: Path, stage: str, key: str, reason: str) -> None:
        aside = self.root / ".aside"
        aside.mkdir(parents=True, exist_ok=True)
        number = 0
        while (target := aside / f"{stage}-{key}-{number}").exists():
            number += 1
        source.rename(target)
        self.report(f"store: {stage} {key[:12]} cannot be used: {reason}; moved to {target}")

    @contextmanager
    def locked(self, stage: str, key: str, *, wait: bool = True) -> Iterator[None]:
        """Hold the right to compute, or to remove, one key; the lock of a killed process is free.

        Raises `BusyError` if `wait` is false and another process holds it.
        """

        def on_busy() -> None:
            if not wait:
                raise BusyError(f"{stage} {key[:12]}")
            self.report(f"store: {stage} {key[:12]} is being computed by another process; waiting for it")

        with locked_file(self.root / ".locks" / f"{stage}-{key}", on_busy=on_busy):
            yield

    def begin(self, stage: str, key: str) -> Path:
        """The folder to work in; what an interrupted process left there is kept. Hold the lock."""
        path = self.partial_path(stage, key)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def recover(self, stage: str, key: str) -> Entry | None:
        """`find`, after mending what an accident has left; None if it has to be computed. Hold the lock.

        A damaged entry is set aside; a commit that a kill has interrupted is finished.
        """
        try:
            entry = self._verify(stage, key)
        except CorruptEntryError as error:
            self.set_aside(stage, key, f"it is damaged ({error})")
            entry = None
        if entry is not None:
            return entry
        path = self.partial_path(stage, key)
        if not (path / MANIFEST).exists():
            return None
        try:
            read_entry(path)
        except CorruptEntryError:
            (path / MANIFEST).unlink()
            return None
        return self._publish(stage, key)

    def verify(self, stage: str, key: str) -> Entry | None:
        """`recover`, with every byte read again although this process may have done so. Hold the lock."""
        self._verified.pop(self.entry_path(stage, key), None)
        return self.recover(stage, key)

    def save_checkpoint(self, stage: str, key: str) -> None:
        """Called now and then while an entry is computed: what is in its `SCRATCH` is whole at this moment.

        A local folder has it already.
        """

    def commit(self, manifest: Manifest) -> Entry:
        """Turn the folder that `begin` gave into an entry; fills in `manifest.files`. Hold the lock."""
        stage, key = manifest.stage, manifest.key
        path = self.partial_path(stage, key)
        files = {}
        for file in _result_files(path):
            sync_file(file)
            files[file.relative_to(path).as_posix()] = FileRecord(
                sha256=sha256_of(file), size=file.stat().st_size
            )
        complete = manifest.model_copy(update={"files": files}).sealed()
        write_json(path / MANIFEST, complete.content())
        return self._publish(stage, key)

    def _publish(self, stage: str, key: str) -> Entry:
        work, final = self.partial_path(stage, key), self.entry_path(stage, key)
        shutil.rmtree(work / SCRATCH, ignore_errors=True)
        for folder in [work, *(child for child in work.rglob("*") if child.is_dir())]:
            sync_folder(folder)
        final.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.rename(work, final)
        except OSError as error:
            # where locks do not reach (another machine on a shared disk) somebody may have been faster
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            entry = read_entry(final)
            self._remove(stage, key, work)
            return entry
        sync_folder(final.parent)
        entry = Entry(final, Manifest.model_validate_json((final / MANIFEST).read_bytes()))
        self._verified[final] = _identity((final / MANIFEST).stat()), entry  # hashed a moment ago
        return entry

    def discard(self, stage: str, key: str) -> None:
        """Remove an entry or what is unfinished of it. Hold the lock."""
        self._verified.pop(self.entry_path(stage, key), None)
        self._remove(stage, key, self.entry_path(stage, key))
        self._remove(stage, key, self.partial_path(stage, key))

    def _remove(self, stage: str, key: str, path: Path) -> None:
        """Remove a folder of this key. It is renamed first, so that a kill leaves no half of it behind."""
        if path.exists():
            rubbish = self.root / ".partial" / f".removed-{stage}-{key}"
            shutil.rmtree(rubbish, ignore_errors=True)
            rubbish.parent.mkdir(parents=True, exist_ok=True)
            path.rename(rubbish)
            shutil.rmtree(rubbish)

    def names(self) -> list[tuple[str, str]]:
        """(stage, key) of all finished entries, in the order of the stages; nothing is verified."""
        return [(stage, path.name) for stage in STAGES for path in _folders(self.root / stage)]

    def unfinished(self) -> list[tuple[str, str]]:
        """(stage, key) of all entries that were begun and not finished."""
        return [(stage, path.name) for stage in STAGES for path in _folders(self.root / ".partial" / stage)]

    def collect(self, keep: Mapping[str, set[str]], *, dry_run: bool = False) -> list[str]:
        """Remove every entry and unfinished folder whose key is not in `keep[stage]`, and `.aside/`.

        What another process works on is left alone. Returns where what was (or would be) removed is.
        """
        removed: list[str] = []
        for stage, key in sorted(set(self.names()) | set(self.unfinished())):
            if key in keep.get(stage, set()):
                continue
            try:
                with self.locked(stage, key, wait=False):
                    removed += self._places(stage, key)
                    if not dry_run:
                        self.discard(stage, key)
            except BusyError:
                self.report(f"store: {stage} {key[:12]} is in use; kept")
        for place, remove in self._rubbish():
            removed.append(place)
            if not dry_run:
                remove()
        return removed

    def _places(self, stage: str, key: str) -> list[str]:
        """Where the entry and what is unfinished of it are, as far as they are there."""
        paths = [self.entry_path(stage, key), self.partial_path(stage, key)]
        return [str(path) for path in paths if path.exists()]

    def _rubbish(self) -> list[tuple[str, Callable[[], None]]]:
        """What belongs to no entry: where it is, and what removes it."""
        folders = [*_folders(self.root / ".aside"), *self.root.glob(".partial/.removed-*")]
        return [(str(path), partial(shutil.rmtree, path)) for path in folders]


def _identity(state: os.stat_result) -> tuple[int, int]:
    """Tells one file from another that another process has put in its place."""
    return state.st_ino, state.st_mtime_ns


def _folders(parent: Path) -> list[Path]:
    return sorted(path for path in parent.iterdir() if path.is_dir()) if parent.is_dir() else []


def _result_files(path: Path) -> list[Path]:
    """All files but scratch, the manifest, and temporary files of an interrupted write."""
    files = (file for file in path.rglob("*") if file.is_file())
    return sorted(
        file
        for file in files
        if file.relative_to(path).parts[0] != SCRATCH
        and file.name != MANIFEST
        and not file.name.startswith(".")
    )


if __name__ == "__main__":
    from pipeline.store_commands import main

    main()
