"""A store at a URL, shared by machines that share no file system.

Work happens in a folder of this machine, the cache, exactly as in a local store; a finished entry is also
copied to the URL, and one that is there is fetched before it is read.

- `<url>/<stage>/<key>/<start of the manifest's checksum>/` holds the files; `manifest.json` beside that
  folder names it and is written last: there is an entry if and only if there is a manifest. Object stores
  cannot rename, so this is what the rename is in a local store.
- What is fetched is verified to the last byte before it gets into the cache. An entry that is damaged there
  is reported and removed there, what came of it kept in the cache's `.aside/`, and it is computed again.
- The URL is the truth: a cached entry whose manifest there is another one, or gone, is dropped. A process
  asks once per entry that it has found (`refresh` makes it ask again).
- Locks hold among the processes of a machine only. If two machines compute one key at the same time, each
  has its own folder there, and the first manifest wins: the other machine takes over that entry and drops its
  own. Between looking for a manifest and writing one lies a moment in which both may write. Then the last one
  wins; the entry is whole too, and where results differ what rests on the other one is computed again.
- Checkpoints are copied to `<url>/.partial/` while a stage is computed, at most once a minute and never for
  more than a twentieth of the time, so that another machine can continue.
"""

import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from pipeline import remote_checkpoint
from pipeline.experiment import STAGES
from pipeline.locks import locked_file
from pipeline.remote_files import RemoteFile, RemoteFolder
from pipeline.store import (
    MANIFEST,
    SCRATCH,
    CorruptEntryError,
    Entry,
    Manifest,
    Store,
    read_entry,
    read_manifest,
)

CACHE_VARIABLE = "NENNI_STORE_CACHE"
CACHE = ".store-cache"
MARKER = "nenni-store.json"
"""Written first: says that there is a store, and that one may write."""
CHECKPOINT_SECONDS = 60.0
CHECKPOINT_SHARE = 0.05
"""The largest share of the time that copying checkpoints may take."""
ABANDONED = timedelta(days=1)
"""Files there without a manifest may be on their way; when they are older than this they are not."""
AT_ONCE = 8
"""Files of an entry that are copied at the same time."""
_KEY = re.compile(r"[0-9a-f]{64}")


class RemoteStore(Store):
    """A store at a URL; see the module. `checkpoint_seconds`: how often checkpoints are copied at most."""

    def __init__(
        self,
        url: str,
        report: Callable[[str], None] = lambda line: None,
        *,
        cache: Path | None = None,
        checkpoint_seconds: float = CHECKPOINT_SECONDS,
    ) -> None:
        self._remote = RemoteFolder(url)
        self._location = url
        super().__init__(cache or default_cache(url), report)
        self._checkpoint_seconds = checkpoint_seconds
        self._writable = False
        self._current: set[tuple[str, str]] = set()
        """What has been compared with the URL."""
        self._listed: dict[str, set[str]] = {}
        """Keys of the finished entries by stage, as listed once."""
        self._saved: dict[tuple[str, str], Mapping[str, str]] = {}
        """Files of the checkpoint at the URL."""
        self._next_checkpoint: dict[tuple[str, str], float] = {}

    @property
    def location(self) -> str:
        """The URL."""
        return self._location

    def exists(self) -> bool:
        return self._remote.read(MARKER) is not None

    def contains(self, stage: str, key: str) -> bool:
        """Whether there is a finished entry, by a listing of the stage that is made once (`refresh`)."""
        if stage not in self._listed:
            self._listed[stage] = _keys(stage, self._remote.files(stage))
        return key in self._listed[stage]

    def refresh(self) -> None:
        """Ask again what is there: other machines add to it."""
        self._listed.clear()
        self._current.clear()

    def manifest(self, stage: str, key: str) -> Manifest | None:
        content = self._remote.read(_manifest(stage, key))
        try:
            return None if content is None else read_manifest(content, stage, key)
        except CorruptEntryError:
            return None

    def names(self) -> list[tuple[str, str]]:
        self._listed.clear()
        for stage in STAGES:
            self.contains(stage, "")
        return [(stage, key) for stage in STAGES for key in sorted(self._listed[stage])]

    def unfinished(self) -> list[tuple[str, str]]:
        """Those of this machine, and those with a checkpoint at the URL."""
        there = [file.name.split("/") for file in self._remote.files(".partial")]
        found = {(p[1], p[2]) for p in there if len(p) == 4 and p[1] in STAGES and _KEY.fullmatch(p[2])}
        found |= set(super().unfinished())
        return sorted(found, key=lambda name: (STAGES.index(name[0]), name[1]))

    # --- from the URL into the cache ------------------------------------------------------------------------

    def _verify(self, stage: str, key: str) -> Entry | None:
        if (stage, key) not in self._current:
            # not the lock of `locked`, which whoever asks may hold
            with locked_file(self.root / ".locks" / f"fetch-{stage}-{key}", on_busy=lambda: None):
                if self._fetch(stage, key):
                    self._current.add((stage, key))
        return super()._verify(stage, key)

    def _fetch(self, stage: str, key: str) -> bool:
        """Let the cache have the entry that is at the URL, if there is one. Raises `CorruptEntryError`."""
        cached = self.entry_path(stage, key)
        there = self._remote.read(_manifest(stage, key))
        if there is not None and _content(cached / MANIFEST) == there:
            try:
                super()._verify(stage, key)
                shutil.rmtree(self._coming(stage, key), ignore_errors=True)  # left by a kill
                return True
            except CorruptEntryError as error:
                self.report(f"store: the copy of {stage} {key[:12]} is damaged ({error}); fetched again")
        fetched = self._download(stage, key, there) if there is not None else None
        self._drop(stage, key)
        if fetched is not None:
            cached.parent.mkdir(parents=True, exist_ok=True)
            fetched.rename(cached)
        return fetched is not None

    def _download(self, stage: str, key: str, content: bytes) -> Path:
        """A folder with the verified entry whose manifest is `content`.

        What does not fit its checksums is fetched once more, then it is damaged there: `CorruptEntryError`.
        """
        folder = self._coming(stage, key)
        for attempt in range(2):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            (folder / MANIFEST).write_bytes(content)
            try:
                manifest = read_manifest(content, stage, key)
                targets = {name: remote_checkpoint.inside(folder, name) for name in manifest.files}
                for target in targets.values():
                    target.parent.mkdir(parents=True, exist_ok=True)
                source = _files(manifest)
                _all_at_once([partial(self._remote.download, f"{source}/{n}", t) for n, t in targets.items()])
                read_entry(folder)
                return folder
            except (CorruptEntryError, FileNotFoundError, ValueError) as error:
                if attempt:
                    raise CorruptEntryError(_damage(error)) from error
        raise AssertionError("two attempts end in a result or an error")

    def _drop(self, stage: str, key: str) -> None:
        self._verified.pop(self.entry_path(stage, key), None)
        self._remove(stage, key, self.entry_path(stage, key))

    def _coming(self, stage: str, key: str) -> Path:
        return self.root / ".partial" / f".coming-{stage}-{key}"

    def recover(self, stage: str, key: str) -> Entry | None:
        entry = super().recover(stage, key)
        if entry is not None:  # if a kill came between the manifest there and the rename here
            self._remove(stage, key, self.partial_path(stage, key))
        return entry

    def verify(self, stage: str, key: str) -> Entry | None:
        """Every byte of what is at the URL is fetched and checked, also if there is a copy in the cache."""
        with locked_file(self.root / ".locks" / f"fetch-{stage}-{key}", on_busy=lambda: None):
            there = self._remote.read(_manifest(stage, key))
            if there is not None:
                try:
                    shutil.rmtree(self._download(stage, key, there))
                except CorruptEntryError:
                    self._drop(stage, key)
        self._current.discard((stage, key))
        return super().verify(stage, key)

    # --- from the cache to the URL --------------------------------------------------------------------------

    def begin(self, stage: str, key: str) -> Path:
        """The folder to work in, with another machine's checkpoint if there is none here. Hold the lock."""
        if not self._writable:
            self._remote.write(MARKER, b'{"layout": 1}\n')  # better refused now than when all is computed
            self._writable = True
        path = super().begin(stage, key)
        if not (path / SCRATCH).exists():
            folder = f".partial/{stage}/{key}"
            self._saved[stage, key] = remote_checkpoint.fetch(self._remote, folder, path / SCRATCH)
        self._next_checkpoint[stage, key] = time.monotonic() + self._checkpoint_seconds
        return path

    def save_checkpoint(self, stage: str, key: str) -> None:
        """Copy the checkpoints to the URL if it is time; one that cannot be copied is reported, no more."""
        begun = time.monotonic()
        if begun < self._next_checkpoint.get((stage, key), 0.0):
            return
        scratch, saved = self.partial_path(stage, key) / SCRATCH, self._saved.get((stage, key), {})
        try:
            folder = f".partial/{stage}/{key}"
            self._saved[stage, key] = remote_checkpoint.save(self._remote, folder, scratch, saved)
        except OSError as error:  # no answer, or another machine has removed it in this moment
            self._saved.pop((stage, key), None)
            self.report(f"warning: the checkpoint of {stage} {key[:12]} stays on this machine: {error}")
        now = time.monotonic()
        pause = max(self._checkpoint_seconds, (now - begun) / CHECKPOINT_SHARE)
        self._next_checkpoint[stage, key] = now + pause

    def _publish(self, stage: str, key: str) -> Entry:
        work = self.partial_path(stage, key)
        content = (work / MANIFEST).read_bytes()
        manifest = read_manifest(content, stage, key)
        first = self._first_there(manifest)
        if first is not None:
            self._remove(stage, key, work)
            entry = first
        else:
            folder = _files(manifest)
            for parent in sorted({f"{folder}/{name}".rpartition("/")[0] for name in manifest.files}):
                self._remote.make_folder(parent)
            _all_at_once([partial(self._remote.upload, work / n, f"{folder}/{n}") for n in manifest.files])
            self._remote.write(_manifest(stage, key), content)
            self._drop(stage, key)
            entry = super()._publish(stage, key)
        self._current.add((stage, key))
        self._listed.get(stage, set()).add(key)
        self._forget_checkpoint(stage, key)
        return entry

    def _first_there(self, manifest: Manifest) -> Entry | None:
        """The entry that another machine has published meanwhile, if it was computed from the same inputs."""
        stage, key = manifest.stage, manifest.key
        self._current.discard((stage, key))
        try:
            entry = self._verify(stage, key)
        except CorruptEntryError as error:
            self.set_aside(stage, key, f"it is damaged ({error})")
            return None
        if entry is None or entry.manifest.upstream_digests != manifest.upstream_digests:
            return None
        if entry.manifest.checksum != manifest.checksum:
            which = "the same" if entry.manifest.digest == manifest.digest else "another"
            self.report(f"store: {stage} {key[:12]} was finished elsewhere first, with {which} result: taken")
        return entry

    # --- what goes ------------------------------------------------------------------------------------------

    def set_aside(self, stage: str, key: str, reason: str) -> None:
        """Remove an entry that cannot be used from the URL, keep it in `.aside/` of the cache, report it."""
        damaged, cached = self._coming(stage, key), self.entry_path(stage, key)
        self._verified.pop(cached, None)
        judged = damaged if damaged.exists() else cached
        self._withdraw(stage, key, only=_content(judged / MANIFEST))
        self._move_aside(judged, stage, key, reason)
        self._drop(stage, key)

    def discard(self, stage: str, key: str) -> None:
        super().discard(stage, key)
        self._withdraw(stage, key)
        self._forget_checkpoint(stage, key)

    def _withdraw(self, stage: str, key: str, only: bytes | None = None) -> None:
        """Remove an entry from the URL, its manifest first; `only` if that is what the manifest is."""
        there = self._remote.read(_manifest(stage, key))
        if there is not None and only in (None, there):
            self._remote.remove(_manifest(stage, key))
            # a damaged one does not tell which files are its own: `collect` removes them when they are old
            with suppress(CorruptEntryError):
                self._remote.remove_folder(_files(read_manifest(there, stage, key)))
        self._current.discard((stage, key))
        self._listed.get(stage, set()).discard(key)

    def _forget_checkpoint(self, stage: str, key: str) -> None:
        self._saved.pop((stage, key), None)
        self._remote.remove_folder(f".partial/{stage}/{key}")

    def _places(self, stage: str, key: str) -> list[str]:
        places = [f"{stage}/{key}"] if self.contains(stage, key) else []
        places += [f".partial/{stage}/{key}"] if self._remote.files(f".partial/{stage}/{key}") else []
        return [*(f"{self._remote.url}/{place}" for place in places), *super()._places(stage, key)]

    def _rubbish(self) -> list[tuple[str, Callable[[], None]]]:
        found = super()._rubbish()
        for folder in self._abandoned():
            found.append((f"{self._remote.url}/{folder}", partial(self._remote.remove_folder, folder)))
        return found

    def _abandoned(self) -> list[str]:
        """Folders of entries that no manifest names, and that are old enough to be nobody's work."""
        now, newest, named = datetime.now(UTC), dict[str, datetime](), set[str]()
        for stage in STAGES:
            for file in self._remote.files(stage):
                parts = file.name.split("/")
                if len(parts) == 3 and parts[2] == MANIFEST:
                    manifest = self.manifest(stage, parts[1])
                    named |= {_files(manifest)} if manifest is not None else set()
                elif len(parts) > 3:
                    folder, modified = "/".join(parts[:3]), file.modified or now
                    newest[folder] = max(newest.get(folder, modified), modified)
        return [folder for folder, time_ in newest.items() if folder not in named and now - time_ > ABANDONED]


def default_cache(url: str) -> Path:
    """The folder for copies of what is at `url`: in NENNI_STORE_CACHE, else in the working directory."""
    parent = Path(os.environ.get(CACHE_VARIABLE) or CACHE).absolute()
    return parent / hashlib.sha256(url.rstrip("/").encode()).hexdigest()[:16]


def _manifest(stage: str, key: str) -> str:
    return f"{stage}/{key}/{MANIFEST}"


def _files(manifest: Manifest) -> str:
    """The folder at the URL with the files of the entry that a manifest describes."""
    return f"{manifest.stage}/{manifest.key}/{manifest.checksum[:16]}"


def _keys(stage: str, files: list[RemoteFile]) -> set[str]:
    parts = [file.name.split("/") for file in files]
    return {p[1] for p in parts if len(p) == 3 and p[2] == MANIFEST and _KEY.fullmatch(p[1])}


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _damage(error: Exception) -> str:
    return "a file is missing" if isinstance(error, FileNotFoundError) else str(error)


def _all_at_once(actions: list[Callable[[], None]]) -> None:
    """Do all of it, in several threads; the first error passes through when all have ended."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for done in [pool.submit(action) for action in actions]:
            done.result()
