"""The store: all of an entry or nothing, whatever happens in between."""

import hashlib
import json
import multiprocessing
import os
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from manifests import KEY, manifest

from nenni_core.files import canonical_json
from pipeline.locks import BusyError
from pipeline.store import MANIFEST, SCRATCH, TIMING, CorruptEntryError, Entry, Store, read_entry


def fill(store: Store, key: str = KEY, stage: str = "pretrain") -> Entry:
    out = store.begin(stage, key)
    (out / "model.bin").write_bytes(bytes(range(256)) * 10)
    (out / "sub").mkdir(exist_ok=True)
    (out / "sub" / "more.txt").write_text("more")
    (out / SCRATCH).mkdir(exist_ok=True)
    (out / SCRATCH / "epoch.bin").write_bytes(b"half way")
    (out / ".history.json.77.tmp").write_bytes(b"left by a killed write")
    return store.commit(manifest(key, stage))


def test_an_entry_is_there_whole_after_the_commit(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.find("pretrain", KEY) is None
    entry = fill(store)
    assert entry.path == tmp_path / "pretrain" / KEY
    assert set(entry.manifest.files) == {"model.bin", "sub/more.txt"}
    assert entry.manifest.files["model.bin"].size == 2560
    assert not (entry.path / SCRATCH).exists()
    assert not store.partial_path("pretrain", KEY).exists()
    again = Store(tmp_path).find("pretrain", KEY)
    assert again == entry
    assert again is not None
    assert again.metrics == {"accuracy": 0.5}


def test_unfinished_work_is_kept_and_never_shown(tmp_path: Path) -> None:
    store = Store(tmp_path)
    out = store.begin("pretrain", KEY)
    (out / "model.bin").write_bytes(b"unfinished")
    assert Store(tmp_path).find("pretrain", KEY) is None
    assert Store(tmp_path).recover("pretrain", KEY) is None
    assert (Store(tmp_path).begin("pretrain", KEY) / "model.bin").read_bytes() == b"unfinished"
    assert store.unfinished() == [("pretrain", KEY)]
    assert store.names() == []


def kill_at(monkeypatch: pytest.MonkeyPatch, name: str, call: int) -> None:
    """Let the `call`-th call of a function of `pipeline.store` be the last thing that a process does."""
    import pipeline.store as module

    real: Callable[..., object] = getattr(module.os, name) if name == "rename" else getattr(module, name)
    count = 0

    def stop(*arguments: object) -> object:
        nonlocal count
        count += 1
        if count >= call:
            raise SystemExit("killed")
        return real(*arguments)

    monkeypatch.setattr(module.os if name == "rename" else module, name, stop)


@pytest.mark.parametrize(
    ("name", "call"),
    [("sync_file", 1), ("sync_file", 2), ("write_json", 1), ("sync_folder", 1), ("rename", 1)],
)
def test_a_kill_during_the_commit_shows_nothing_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, call: int
) -> None:
    with monkeypatch.context() as patch:
        kill_at(patch, name, call)
        with pytest.raises(SystemExit):
            fill(Store(tmp_path))
    store = Store(tmp_path)
    assert store.find("pretrain", KEY) is None
    recovered = store.recover("pretrain", KEY)
    if name in ("sync_folder", "rename"):  # the manifest was written: only the last step was missing
        assert recovered is not None
    else:
        assert recovered is None
        recovered = fill(store)
    assert set(recovered.manifest.files) == {"model.bin", "sub/more.txt"}
    assert read_entry(recovered.path) == recovered


def test_a_manifest_that_does_not_fit_its_files_is_not_recovered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        kill_at(patch, "rename", 1)
        with pytest.raises(SystemExit):
            fill(Store(tmp_path))
    store = Store(tmp_path)
    (store.partial_path("pretrain", KEY) / "model.bin").write_bytes(b"something else")
    assert store.recover("pretrain", KEY) is None
    assert store.find("pretrain", KEY) is None


@pytest.mark.parametrize("name", ["model.bin", "sub/more.txt", MANIFEST])
@pytest.mark.parametrize("place", [0.0, 0.5, 0.999])
def test_a_flipped_bit_is_found_and_set_aside(tmp_path: Path, name: str, place: float) -> None:
    entry = fill(Store(tmp_path))
    content = bytearray((entry.path / name).read_bytes())
    content[int(place * len(content))] ^= 1
    (entry.path / name).write_bytes(content)
    lines: list[str] = []
    store = Store(tmp_path, lines.append)
    assert store.find("pretrain", KEY) is None  # reading changes nothing
    assert entry.path.is_dir()
    with store.locked("pretrain", KEY):
        assert store.recover("pretrain", KEY) is None
    [line] = lines
    assert "damaged" in line
    assert Path(name).name in line
    [aside] = (tmp_path / ".aside").iterdir()
    assert (aside / name).read_bytes() == content
    assert fill(store).path == entry.path
    assert store.find("pretrain", KEY) is not None


@pytest.mark.parametrize("damage", ["missing", "longer", "no manifest", "other key"])
def test_other_damage_is_found_too(tmp_path: Path, damage: str) -> None:
    entry = fill(Store(tmp_path))
    if damage == "missing":
        (entry.path / "model.bin").unlink()
    elif damage == "longer":
        with (entry.path / "model.bin").open("ab") as file:
            file.write(b"x")
    elif damage == "no manifest":
        (entry.path / MANIFEST).unlink()
    else:
        entry.path.rename(entry.path.with_name("e" * 64))
    key = "e" * 64 if damage == "other key" else KEY
    store = Store(tmp_path)
    assert store.find("pretrain", key) is None
    assert store.recover("pretrain", key) is None
    assert not store.entry_path("pretrain", key).exists()
    assert len(list((tmp_path / ".aside").iterdir())) == 1


def test_damage_twice_keeps_both(tmp_path: Path) -> None:
    for _ in range(2):
        entry = fill(Store(tmp_path))
        (entry.path / "model.bin").unlink()
        assert Store(tmp_path).recover("pretrain", KEY) is None
    assert len(list((tmp_path / ".aside").iterdir())) == 2


def test_an_entry_that_another_process_has_replaced_is_read_again(tmp_path: Path) -> None:
    reader, writer = Store(tmp_path), Store(tmp_path)
    fill(writer)
    assert reader.find("pretrain", KEY) is not None
    writer.discard("pretrain", KEY)
    assert reader.find("pretrain", KEY) is None
    out = writer.begin("pretrain", KEY)
    (out / "model.bin").write_bytes(b"another result")
    writer.commit(manifest())
    again = reader.find("pretrain", KEY)
    assert again is not None
    assert set(again.manifest.files) == {"model.bin"}


def test_the_digest_is_over_results_only(tmp_path: Path) -> None:
    digests = []
    for name, seconds in (("one", "1.0"), ("two", "2.0"), ("three", "1.0")):
        store = Store(tmp_path / name)
        out = store.begin("pretrain", KEY)
        (out / TIMING).write_text(seconds)
        (out / "model.bin").write_bytes(b"x" if name == "three" else b"y")
        digests.append(store.commit(manifest()).manifest.digest)
    assert digests[0] == digests[1] != digests[2]


def test_a_sealed_manifest_notices_a_changed_field() -> None:
    sealed = manifest().sealed()
    assert sealed.is_intact()
    assert not sealed.model_copy(update={"metrics": {"accuracy": 0.9}}).is_intact()
    assert not manifest().is_intact()


def test_reading_a_folder_that_is_no_entry(tmp_path: Path) -> None:
    with pytest.raises(CorruptEntryError, match="missing"):
        read_entry(tmp_path)


def _hold(root: str, log: str, name: str, together: Barrier) -> None:
    store = Store(Path(root), lambda line: None)
    together.wait(60)
    with store.locked("pretrain", KEY):
        if store.find("pretrain", KEY) is None:
            with open(log, "a") as file:
                file.write(name)
            time.sleep(0.2)
            fill(store)


def test_two_processes_compute_a_key_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    log, together = tmp_path / "log", context.Barrier(2)
    processes = [
        context.Process(target=_hold, args=(str(tmp_path / "store"), str(log), name, together))
        for name in "ab"
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert len(log.read_text()) == 1
    assert Store(tmp_path / "store").find("pretrain", KEY) is not None


def _hold_and_die(root: str, ready: str) -> None:
    with Store(Path(root)).locked("pretrain", KEY):
        Path(ready).touch()
        time.sleep(0.1)
        os._exit(9)


def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(
        target=_hold_and_die, args=(str(tmp_path / "store"), str(tmp_path / "ready"))
    )
    process.start()
    process.join(60)
    assert process.exitcode == 9
    assert (tmp_path / "ready").exists()
    with Store(tmp_path / "store").locked("pretrain", KEY, wait=False):
        pass


def test_a_held_lock_is_busy_and_reported(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with (
        store.locked("pretrain", KEY),
        pytest.raises(BusyError, match="pretrain"),
        Store(tmp_path).locked("pretrain", KEY, wait=False),
    ):
        pass
    with store.locked("pretrain", KEY, wait=False), store.locked("distill", KEY, wait=False):
        pass


def test_collect_keeps_what_is_wanted_and_what_is_in_use(tmp_path: Path) -> None:
    store = Store(tmp_path)
    keys = {name: name * 64 for name in "abcd"}
    for key in (keys["a"], keys["b"], keys["c"]):
        fill(store, key)
    store.begin("distill", keys["d"])
    fill(store, keys["d"], "attack")
    store.set_aside("attack", keys["d"], "test")
    keep = {"pretrain": {keys["a"]}}
    with store.locked("pretrain", keys["b"]):
        planned = Store(tmp_path).collect(keep, dry_run=True)
        assert store.names() == [("pretrain", keys[name]) for name in "abc"]
        removed = Store(tmp_path).collect(keep)
    assert planned == removed
    assert store.names() == [("pretrain", keys["a"]), ("pretrain", keys["b"])]
    assert store.unfinished() == []
    assert list((tmp_path / ".aside").iterdir()) == []


def test_a_discarded_entry_is_gone(tmp_path: Path) -> None:
    store = Store(tmp_path)
    fill(store)
    with store.locked("pretrain", KEY):
        store.discard("pretrain", KEY)
    assert store.find("pretrain", KEY) is None
    assert store.names() == store.unfinished() == []


def test_who_comes_second_without_a_lock_takes_what_is_there(tmp_path: Path) -> None:
    """As where a shared disk has no locks between machines: the first entry stays, nothing is left over."""
    store = Store(tmp_path)
    entries = []
    for text in ("first", "second"):
        (store.begin("prepare", KEY) / "data.txt").write_text(text)
        entries.append(store.commit(manifest(KEY, "prepare")))
    assert [(entry.path / "data.txt").read_text() for entry in entries] == ["first", "first"]
    assert entries[0].manifest == entries[1].manifest
    assert store.unfinished() == []


def test_entries_from_before_there_were_imports_stay_as_they_are(tmp_path: Path) -> None:
    """Of an entry of the pipeline nothing is said that older entries do not say; an imported one says it."""
    store = Store(tmp_path)
    path = fill(store).path / MANIFEST
    values = json.loads(path.read_text())
    assert "imported_from" not in values
    rest = {name: value for name, value in values.items() if name != "checksum"}
    assert values["checksum"] == hashlib.sha256(canonical_json(rest).encode()).hexdigest()

    out = store.begin("pretrain", "b" * 64)
    (out / "model.bin").write_bytes(b"weights")
    store.commit(manifest("b" * 64, imported_from="a GPU"))
    again = Store(tmp_path).find("pretrain", "b" * 64)
    assert again is not None
    assert again.manifest.imported_from == "a GPU"
    changed = again.path / MANIFEST
    changed.write_text(changed.read_text().replace("a GPU", "a CPU"))
    assert Store(tmp_path).find("pretrain", "b" * 64) is None
