"""A store at a URL: what a local store promises, without a rename and without locks between machines.

A machine is a `RemoteStore` with a cache of its own.
"""

import itertools
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from manifests import KEY, manifest
from remote_places import Machine, Place, fill
from typer.testing import CliRunner

from nenni_core.files import sha256_of
from pipeline import remote_store
from pipeline.remote_files import RemoteFolder, RemoteStoreError
from pipeline.remote_store import RemoteStore
from pipeline.store import MANIFEST, SCRATCH, TIMING, Store, open_store, read_entry
from pipeline.store_commands import app


def test_what_one_machine_finishes_another_one_has(place: Place, machine: Machine) -> None:
    first, second = machine(), machine()
    assert first.find("pretrain", KEY) is None
    entry = fill(first)
    found = second.find("pretrain", KEY)
    assert found is not None
    assert found.manifest == entry.manifest
    assert found.path.is_relative_to(second.root)
    assert {name: sha256_of(found.path / name) for name in entry.manifest.files} == {
        name: record.sha256 for name, record in entry.manifest.files.items()
    }
    assert not any(SCRATCH in name or "epoch.bin" in name for name in place.names())
    assert second.names() == [("pretrain", KEY)]
    assert second.unfinished() == []
    # fetched once: the copy serves from then on, and without the manifest having been asked for again
    assert second.find("pretrain", KEY) == found


def test_asking_what_is_there_fetches_nothing(machine: Machine) -> None:
    first, second = machine(), machine()
    assert not second.contains("pretrain", KEY)
    entry = fill(first)
    assert first.contains("pretrain", KEY)
    assert not second.contains("pretrain", KEY)  # by the listing that it made
    second.refresh()
    assert second.contains("pretrain", KEY)
    assert second.manifest("pretrain", KEY) == entry.manifest
    assert second.manifest("pretrain", "b" * 64) is None
    assert not second.entry_path("pretrain", KEY).exists()


def test_local_stores_answer_the_same_questions(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "here"))
    assert type(store) is Store
    assert store.location == str(tmp_path / "here")
    assert not store.exists()
    assert not store.contains("pretrain", KEY)
    assert store.manifest("pretrain", KEY) is None
    entry = fill(store)
    assert store.contains("pretrain", KEY)
    assert store.manifest("pretrain", KEY) == entry.manifest
    (entry.path / MANIFEST).write_text("{")
    assert store.manifest("pretrain", KEY) is None


def test_the_location_opens_the_same_store(
    place: Place, machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = fill(machine())
    monkeypatch.chdir(tmp_path)
    opened = open_store(machine().location, existing=True)
    assert opened.location == place.url
    found = opened.find("pretrain", KEY)
    assert found is not None
    assert found.manifest == entry.manifest
    assert found.path.is_relative_to(tmp_path / ".store-cache")
    monkeypatch.setenv("NENNI_STORE_CACHE", str(tmp_path / "big disk"))
    assert open_store(place.url).root.is_relative_to(tmp_path / "big disk")


# --- accidents -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", [1, 2, 3, 4])
def test_an_interrupted_upload_is_no_entry_and_is_finished_later(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """The three files and the manifest: whichever is the last to arrive."""
    first, second = machine(), machine()
    calls = itertools.count(1)

    def failing(real: Callable[..., None]) -> Callable[..., None]:
        def act(self: RemoteFolder, *arguments: Any) -> None:
            if MARKER not in arguments and next(calls) >= call:
                raise RemoteStoreError("the network is gone")
            real(self, *arguments)

        return act

    MARKER = remote_store.MARKER
    with monkeypatch.context() as patch:
        patch.setattr(RemoteFolder, "upload", failing(RemoteFolder.upload))
        patch.setattr(RemoteFolder, "write", failing(RemoteFolder.write))
        with pytest.raises(RemoteStoreError):
            fill(first)
    for store in (first, second):
        assert store.find("pretrain", KEY) is None
        assert store.names() == []
    assert second.recover("pretrain", KEY) is None
    recovered = first.recover("pretrain", KEY)  # it has all of it, nothing is computed again
    assert recovered is not None
    found = second.find("pretrain", KEY)
    assert found is not None
    assert found.manifest == recovered.manifest


def test_a_kill_between_the_manifest_there_and_the_rename_here_loses_nothing(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = machine()

    def killed(*arguments: object) -> None:
        raise SystemExit("killed")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "_publish", killed)
        with pytest.raises(SystemExit):
            fill(store)
    assert store.unfinished() == [("pretrain", KEY)]
    assert store.recover("pretrain", KEY) is not None
    assert store.unfinished() == []


@pytest.mark.parametrize("name", ["model.bin", "more.txt", MANIFEST])
def test_a_flipped_byte_there_is_found_and_the_entry_computed_again(
    place: Place, machine: Machine, name: str
) -> None:
    fill(machine())
    [damaged] = [path for path in place.names() if path.endswith(name)]
    place.flip(damaged)
    lines: list[str] = []
    store = machine(lines)
    before = place.names()
    assert store.find("pretrain", KEY) is None  # reading changes nothing
    assert place.names() == before
    with store.locked("pretrain", KEY):
        assert store.recover("pretrain", KEY) is None
    [line] = lines
    assert "damaged" in line
    assert name in line
    [aside] = (store.root / ".aside").iterdir()
    assert [path.name for path in aside.rglob(name)] == [name]
    assert machine().names() == []
    again = fill(store)
    found = machine().find("pretrain", KEY)
    assert found is not None
    assert found.manifest == again.manifest


@pytest.mark.parametrize("name", ["model.bin", "sub/more.txt"])
def test_a_file_that_is_gone_is_found_too(place: Place, machine: Machine, name: str) -> None:
    fill(machine())
    place.remove(next(path for path in place.names() if path.endswith(name)))
    lines: list[str] = []
    assert machine(lines).recover("pretrain", KEY) is None
    assert "a file is missing" in lines[0]


def test_a_damaged_copy_is_fetched_again_and_never_reaches_the_others(machine: Machine) -> None:
    first, second = machine(), machine()
    fill(first)
    found = second.find("pretrain", KEY)
    assert found is not None
    (found.path / "model.bin").write_bytes(b"damaged")
    lines: list[str] = []
    restarted = RemoteStore(second.location, lines.append, cache=second.root)
    again = restarted.find("pretrain", KEY)
    assert again is not None
    read_entry(again.path)
    assert "fetched again" in lines[0]
    assert machine().find("pretrain", KEY) is not None


def test_a_manifest_cannot_write_outside_of_the_cache(place: Place, machine: Machine, tmp_path: Path) -> None:
    """Who may write to the bucket may not write to the machines that read it."""
    fill(machine())
    content = json.loads(place.read(f"pretrain/{KEY}/{MANIFEST}"))
    content["files"]["../../../../escaped.txt"] = content["files"]["sub/more.txt"]
    evil = manifest().model_validate(content).sealed()
    place.write(f"pretrain/{KEY}/{MANIFEST}", evil.model_dump_json().encode())
    lines: list[str] = []
    assert machine(lines).recover("pretrain", KEY) is None
    assert "outside of its folder" in lines[0]
    assert not list(tmp_path.rglob("escaped.txt"))


def test_what_is_gone_or_another_one_there_is_not_served_from_a_copy(machine: Machine) -> None:
    first, second = machine(), machine()
    fill(first)
    assert second.find("pretrain", KEY) is not None
    first.discard("pretrain", KEY)
    second.refresh()
    assert second.find("pretrain", KEY) is None
    assert second.recover("pretrain", KEY) is None
    fill(first, seconds="2")
    found = second.find("pretrain", KEY)
    assert found is not None
    assert (found.path / TIMING).read_text() == "2"
    first.discard("pretrain", KEY)
    fill(first, seconds="3")
    second.refresh()
    found = second.find("pretrain", KEY)
    assert found is not None
    assert (found.path / TIMING).read_text() == "3"


# --- two machines, one key -------------------------------------------------------------------------------


def test_of_two_machines_with_one_key_the_first_wins_and_the_entry_is_whole(machine: Machine) -> None:
    lines: list[str] = []
    first, second = machine(), machine(lines)
    for store in (first, second):
        assert store.find("pretrain", KEY) is None
        store.begin("pretrain", KEY)
    mine = fill(first, seconds="1")
    theirs = fill(second, seconds="2")
    assert theirs.manifest == mine.manifest
    assert (theirs.path / TIMING).read_text() == "1"
    assert "with the same result" in lines[0]
    assert second.unfinished() == []
    third = machine().find("pretrain", KEY)
    assert third is not None
    assert third.manifest == mine.manifest


def test_of_two_that_write_at_the_same_moment_the_last_wins_and_the_entry_is_whole(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = machine(), machine()
    monkeypatch.setattr(RemoteStore, "_first_there", lambda self, manifest: None)
    fill(first, seconds="1")
    last = fill(second, seconds="2")
    found = machine().find("pretrain", KEY)
    assert found is not None
    assert found.manifest == last.manifest
    assert (found.path / TIMING).read_text() == "2"


def test_what_was_computed_from_other_inputs_replaces_what_is_there(machine: Machine) -> None:
    fill(machine(), upstream_digests={"prepare": "0" * 64})
    fill(machine(), upstream_digests={"prepare": "1" * 64})
    found = machine().find("pretrain", KEY)
    assert found is not None
    assert found.manifest.upstream_digests == {"prepare": "1" * 64}


# --- commands --------------------------------------------------------------------------------------------


def test_the_commands_of_the_store(
    place: Place, machine: Machine, tmp_path: Path, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NENNI_STORE_CACHE", str(tmp_path / "here"))

    def call(*arguments: str) -> Any:
        return CliRunner().invoke(app, [*arguments, "--store", place.url])

    missing = call("ls")
    assert (missing.exit_code, missing.stderr.count("\n")) == (2, 1)
    assert "there is no store" in missing.stderr
    fill(machine())
    fill(machine(), "b" * 64, "attack")
    listed = call("ls").stdout.splitlines()
    assert [line.split()[:2] for line in listed[1:]] == [["pretrain", "a" * 12], ["attack", "b" * 12]]
    assert call("verify").stderr == "2 of 2 entries are as they were written\n"
    open_store(place.url).find("attack", "b" * 64)  # a good copy here does not hide the damage there
    place.flip(next(name for name in place.names() if name.startswith("attack/") and "model" in name))
    damaged = call("verify")
    assert damaged.exit_code == 1
    assert "model.bin is not what was written" in damaged.stderr
    assert "1 of 2" in damaged.stderr
    (tmp_path / "params.yaml").write_text(json.dumps(tiny))
    removed = call("gc", "--params", str(tmp_path / "params.yaml"), "--delete")
    assert removed.exit_code == 0
    assert f"/pretrain/{KEY}" in removed.stderr
    assert place.names() == [remote_store.MARKER]


def test_what_no_manifest_names_goes_when_it_is_old(
    place: Place, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(machine())
    place.write(f"pretrain/{KEY}/0123456789abcdef/model.bin", b"of an upload that was given up")
    keep = {"pretrain": {KEY}}
    assert machine().collect(keep) == []  # it may be on its way
    monkeypatch.setattr(remote_store, "ABANDONED", timedelta(0))
    planned, removed = machine().collect(keep, dry_run=True), machine().collect(keep)
    assert planned == removed
    tells_when = place.url.startswith("file")  # where nobody knows how old it is it stays
    assert [found.rpartition("/")[2] for found in removed] == (["0123456789abcdef"] if tells_when else [])
    assert machine().find("pretrain", KEY) is not None
