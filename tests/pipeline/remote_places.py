"""What tests of remote stores need: the files at a URL, and an entry with a few files."""

from collections.abc import Callable
from typing import Any

import fsspec
from manifests import KEY, manifest

from pipeline.remote_store import RemoteStore
from pipeline.store import SCRATCH, TIMING, Entry, Store

Machine = Callable[..., RemoteStore]
"""Starts a machine: a store with a cache of its own. Takes where its reports go, and the store's settings."""


class Place:
    """Where a remote store is, seen from behind: its files as they lie there."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._files, self._root = fsspec.core.url_to_fs(url)

    def names(self) -> list[str]:
        if not self._files.exists(self._root):
            return []
        found = self._files.find(self._root)
        return sorted(name.removeprefix(self._root).lstrip("/") for name in found)

    def read(self, name: str) -> bytes:
        return self._files.cat_file(f"{self._root}/{name}")

    def write(self, name: str, content: bytes) -> None:
        self._files.makedirs(f"{self._root}/{name}".rpartition("/")[0], exist_ok=True)
        self._files.pipe_file(f"{self._root}/{name}", content)

    def remove(self, name: str) -> None:
        self._files.rm_file(f"{self._root}/{name}")

    def flip(self, name: str) -> None:
        content = bytearray(self.read(name))
        content[len(content) // 2] ^= 1
        self.write(name, bytes(content))


def fill(store: Store, key: str = KEY, stage: str = "pretrain", seconds: str = "1", **changes: Any) -> Entry:
    out = store.begin(stage, key)
    (out / "model.bin").write_bytes(bytes(range(256)) * 10)
    (out / "sub").mkdir(exist_ok=True)
    (out / "sub" / "more.txt").write_text("more")
    (out / TIMING).write_text(seconds)
    (out / SCRATCH).mkdir(exist_ok=True)
    (out / SCRATCH / "epoch.bin").write_bytes(b"half way")
    return store.commit(manifest(key, stage, **changes))
