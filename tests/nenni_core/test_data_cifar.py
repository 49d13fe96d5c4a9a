"""The binary versions of CIFAR, with small stand-ins for the real archives and a server on this machine."""

import dataclasses
import hashlib
import io
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from nenni_core.data import DATASETS, fingerprint, load_dataset
from nenni_core.data.cifar import (
    CIFAR10,
    CIFAR100,
    CifarLayout,
    RecordFile,
    fingerprint_cifar,
    load_cifar,
)
from nenni_core.data.download import RemoteFile, fetch
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


@pytest.fixture(params=SMALL)
def layout(request: pytest.FixtureRequest) -> CifarLayout:
    return SMALL[request.param]


# --- the official layouts --------------------------------------------------------------------------------


def test_official_layouts() -> None:
    """Sizes from the authors' page: 5 x 10,000 + 10,000 records of 3,073; 50,000 + 10,000 of 3,074 bytes."""
    sizes = {
        layout.name: {file.name: file.records * layout.record_bytes for file in layout.record_files}
        for layout in (CIFAR10, CIFAR100)
    }
    batches = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
    assert sizes["cifar10"] == dict.fromkeys(batches, 30_730_000)
    assert sizes["cifar100"] == {"train.bin": 153_700_000, "test.bin": 30_740_000}
    for layout in (CIFAR10, CIFAR100):
        assert layout.archive.url.startswith("https://www.cs.toronto.edu/~kriz/")
        assert len(bytes.fromhex(layout.archive.md5)) == 16
        assert len(bytes.fromhex(layout.archive.sha256)) == 32
        assert fingerprint(layout.name) == layout.archive.sha256
        assert layout.name in DATASETS


# --- reading ---------------------------------------------------------------------------------------------


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


def test_folder_and_what_holds_it(layout: CifarLayout, tmp_path: Path) -> None:
    files = contents(layout)
    folder = write_folder(tmp_path, layout, files)
    check_pixels(layout, files, path=folder)
    check_pixels(layout, files, path=tmp_path)
    assert "local folder" in load_cifar(layout, path=folder, cache_dir=tmp_path).source


def test_archive_and_what_holds_it(layout: CifarLayout, tmp_path: Path) -> None:
    files = contents(layout)
    archive = pack(layout, files)
    layout = published(layout, archive)
    (tmp_path / layout.archive.name).write_bytes(archive)
    (tmp_path / "renamed.tgz").write_bytes(archive)
    for path in (tmp_path / layout.archive.name, tmp_path / "renamed.tgz", tmp_path):
        check_pixels(layout, files, path=path)
        assert fingerprint_cifar(layout, path=path) == layout.archive.sha256
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([layout.archive.name, "renamed.tgz"])
    assert "official archive" in load_cifar(layout, path=tmp_path, cache_dir=tmp_path).source


def test_reading_reports_each_file(layout: CifarLayout, tmp_path: Path) -> None:
    write_folder(tmp_path, layout, contents(layout))
    steps: list[tuple[str, int, int]] = []
    load_cifar(layout, path=tmp_path, cache_dir=tmp_path, on_progress=lambda *step: steps.append(step))
    total = len(layout.file_names)
    assert steps == [(f"reading {layout.name}", i, total) for i in range(1, total + 1)]


def test_fingerprint_of_a_folder_sees_every_byte(layout: CifarLayout, tmp_path: Path) -> None:
    folder = write_folder(tmp_path, layout, contents(layout))
    first = fingerprint_cifar(layout, path=folder)
    (folder / "readme.html").write_text("not part of the data")
    assert fingerprint_cifar(layout, path=tmp_path) == first
    for name in layout.file_names:
        original = (folder / name).read_bytes()
        (folder / name).write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
        assert fingerprint_cifar(layout, path=folder) != first, name
        (folder / name).write_bytes(original)
    assert fingerprint_cifar(layout, path=folder) == first


# --- wrong local data ------------------------------------------------------------------------------------


def one_line(caught: pytest.ExceptionInfo[InputError], *parts: str) -> None:
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_nothing_there(layout: CifarLayout, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "absent", tmp_path / "empty"):
        for function in (
            lambda p: load_cifar(layout, path=p, cache_dir=p),
            lambda p: fingerprint_cifar(layout, path=p),
        ):
            with pytest.raises(InputError, match="no data at") as caught:
                function(path)
            one_line(caught, str(path), layout.archive.name, layout.folder)


Damage = Callable[[CifarLayout, dict[str, bytes]], None]


def truncate(layout: CifarLayout, files: dict[str, bytes]) -> None:
    name = layout.test_files[0].name
    files[name] = files[name][:-1]


def lengthen(layout: CifarLayout, files: dict[str, bytes]) -> None:
    files[layout.train_files[0].name] += bytes(5000)


def drop_records(layout: CifarLayout, files: dict[str, bytes]) -> None:
    del files[layout.test_files[0].name]


def drop_names(layout: CifarLayout, files: dict[str, bytes]) -> None:
    del files[layout.names_file]


def wrong_label(layout: CifarLayout, files: dict[str, bytes]) -> None:
    name, header = layout.test_files[0].name, len(layout.label_classes)
    content = bytearray(files[name])
    content[2 * layout.record_bytes + header - 1] = layout.label_classes[-1]  # one too many, in record 2
    files[name] = bytes(content)


def wrong_first_label(layout: CifarLayout, files: dict[str, bytes]) -> None:
    """The coarse label of CIFAR-100 is checked although it is not used: it shows a shifted file."""
    name = layout.test_files[0].name
    content = bytearray(files[name])
    content[layout.record_bytes] = 200
    files[name] = bytes(content)


def too_few_names(layout: CifarLayout, files: dict[str, bytes]) -> None:
    files[layout.names_file] = b"airplane\nautomobile\n"


def no_text(layout: CifarLayout, files: dict[str, bytes]) -> None:
    files[layout.names_file] = b"\xff\xfe" * 50


def repeated_names(layout: CifarLayout, files: dict[str, bytes]) -> None:
    files[layout.names_file] = b"cat\n" * layout.label_classes[-1]


DAMAGES: list[tuple[Damage, str]] = [
    (truncate, r"has \d\d,\d\d\d bytes; expected 12,29\d \(4 records of 3,07\d\)"),
    (lengthen, r"has more than 21,5\d\d bytes; expected 21,5\d\d \(7 records"),
    (wrong_label, r"label 100? at index 2; expected 0 to 99?"),
    (wrong_first_label, r"label 200 at index 1; expected 0 to 1?9"),
    (too_few_names, "has 2 class names; expected 100?, one a line"),
    (no_text, "is not text; expected 100? class names"),
    (repeated_names, "expected two or more different ones"),
]


@pytest.mark.parametrize(
    ("damage", "message"),
    [*DAMAGES, (drop_records, "is missing; expected"), (drop_names, "is missing; expected")],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_damaged_folder(layout: CifarLayout, damage: Damage, message: str, tmp_path: Path) -> None:
    files = contents(layout)
    damage(layout, files)
    write_folder(tmp_path, layout, files)
    with pytest.raises(InputError, match=message) as caught:
        load_cifar(layout, path=tmp_path, cache_dir=tmp_path)
    one_line(caught, layout.name)


@pytest.mark.parametrize(
    ("damage", "message"),
    [*DAMAGES, (drop_records, "lacks cifar-.*expected it inside"), (drop_names, "lacks cifar-")],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_damaged_archive_contents(layout: CifarLayout, damage: Damage, message: str, tmp_path: Path) -> None:
    """Even a published archive is not believed."""
    files = contents(layout)
    damage(layout, files)
    archive = pack(layout, files)
    (tmp_path / "a.tar.gz").write_bytes(archive)
    with pytest.raises(InputError, match=message) as caught:
        load_cifar(published(layout, archive), path=tmp_path / "a.tar.gz", cache_dir=tmp_path)
    one_line(caught, layout.name)


def test_archive_of_other_bytes(layout: CifarLayout, tmp_path: Path) -> None:
    archive = pack(layout, contents(layout))
    layout = published(layout, archive)
    flipped = archive[:100] + bytes([archive[100] ^ 1]) + archive[101:]
    path = tmp_path / layout.archive.name
    for content, found, expected in (
        (archive[:-10], f"{len(archive) - 10:,} bytes", f"expected {len(archive):,}"),
        (flipped, f"md5 {hashlib.md5(flipped).hexdigest()}", f"expected {layout.archive.md5}"),
    ):
        path.write_bytes(content)
        for function in (load_cifar, fingerprint_cifar):
            options = {"cache_dir": tmp_path} if function is load_cifar else {}
            with pytest.raises(InputError, match="is not the official") as caught:
                function(layout, path=path, **options)
            one_line(caught, str(path), found, expected, "unpacked folder", "accepted without checksums")


def test_md5_alone_is_not_enough(layout: CifarLayout, tmp_path: Path) -> None:
    archive = pack(layout, contents(layout))
    layout = published(layout, archive)
    forged = dataclasses.replace(layout.archive, sha256="0" * 64)
    (tmp_path / "a.tar.gz").write_bytes(archive)
    with pytest.raises(InputError, match=r"sha256 .*; expected 0000"):
        load_cifar(
            dataclasses.replace(layout, archive=forged), path=tmp_path / "a.tar.gz", cache_dir=tmp_path
        )


def test_hostile_members_touch_nothing(layout: CifarLayout, tmp_path: Path) -> None:
    """Paths that climb and links in the place of files are passed over."""
    files = contents(layout)
    outside = tmp_path / "outside.bin"
    outside.write_bytes(files[layout.test_files[0].name])
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        climbing = tarfile.TarInfo("../../evil.bin")
        climbing.size = 4
        archive.addfile(climbing, io.BytesIO(b"evil"))
        link = tarfile.TarInfo(f"{layout.folder}/{layout.test_files[0].name}")
        link.type, link.linkname = tarfile.SYMTYPE, str(outside)
        archive.addfile(link)
        for name in layout.file_names:
            if name != layout.test_files[0].name:
                member = tarfile.TarInfo(f"./{layout.folder}/{name}")
                member.size = len(files[name])
                archive.addfile(member, io.BytesIO(files[name]))
    inside = tmp_path / "a" / "b" / "c"
    inside.mkdir(parents=True)
    (inside / "a.tar.gz").write_bytes(buffer.getvalue())
    layout = published(layout, buffer.getvalue())
    with pytest.raises(InputError, match=f"lacks {layout.folder}/{layout.test_files[0].name}"):
        load_cifar(layout, path=inside / "a.tar.gz", cache_dir=inside)
    written = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert written == {"outside.bin", "a/b/c/a.tar.gz"}


def test_unreadable_files_are_the_users_to_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder(tmp_path, CIFAR10, contents(SMALL["cifar10"]))

    def refuse(self: Path, *args: object, **kwargs: object) -> object:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)
    for function in (load_dataset, fingerprint):
        with pytest.raises(InputError, match=r"cifar10: cannot read '.*data_batch_1.bin': Permission denied"):
            function("cifar10", path=folder)


# --- downloading -----------------------------------------------------------------------------------------


@contextmanager
def serving(
    content: bytes, *, status: int = 200, declared: int | None = None
) -> Iterator[tuple[str, list[str]]]:
    """A server of one answer on this machine: its address and the paths asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            if declared != -1:
                self.send_header("Content-Length", str(len(content) if declared is None else declared))
            self.end_headers()
            # A client that has seen enough hangs up: that is one of the things tested here.
            try:
                self.wfile.write(content)
            except OSError:
                self.close_connection = True

        def log_message(self, *args: object) -> None:
            """Nothing on the console."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is on this machine, whatever the environment says of others."""
    monkeypatch.setenv("no_proxy", "*")


def test_download_once_then_from_the_cache(layout: CifarLayout, tmp_path: Path) -> None:
    files = contents(layout)
    archive = pack(layout, files)
    cache = tmp_path / "new" / "cache"
    steps: list[tuple[str, int, int]] = []
    with serving(archive) as (address, asked):
        offered = published(layout, archive, f"{address}/data/{layout.archive.name}")
        check_pixels(offered, files, cache_dir=cache)
        load_cifar(offered, cache_dir=cache, on_progress=lambda *step: steps.append(step))
        assert asked == [f"/data/{layout.archive.name}"]
        assert all(not step[0].startswith("downloading") for step in steps)
    assert [p.name for p in cache.iterdir()] == [layout.archive.name]
    assert (cache / layout.archive.name).read_bytes() == archive


def test_download_reports_progress(tmp_path: Path) -> None:
    content = bytes(3_000_000)
    steps: list[tuple[str, int, int]] = []
    with serving(content) as (address, _):
        remote = published(SMALL["cifar10"], content, f"{address}/a.bin").archive
        fetch(remote, tmp_path, lambda *step: steps.append(step))
    assert {(what, total) for what, _, total in steps} == {("downloading a.bin", len(content))}
    done = [completed for _, completed, _ in steps]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, len(content))


def test_damaged_cache_is_fetched_again(layout: CifarLayout, tmp_path: Path) -> None:
    files = contents(layout)
    archive = pack(layout, files)
    (tmp_path / layout.archive.name).write_bytes(archive[:-1] + b"?")
    with serving(archive) as (address, asked):
        offered = published(layout, archive, f"{address}/{layout.archive.name}")
        check_pixels(offered, files, cache_dir=tmp_path)
        assert len(asked) == 1
    assert (tmp_path / layout.archive.name).read_bytes() == archive


GOOD = pack(SMALL["cifar10"], contents(SMALL["cifar10"]))
HALF = GOOD[: len(GOOD) // 2]


@pytest.mark.parametrize(
    ("content", "answer", "message"),
    [
        (
            GOOD[:-1] + bytes([GOOD[-1] ^ 1]),
            {},
            r"the download has md5 \w{32}; expected \w{32}; nothing was kept",
        ),
        # the connection ends early, with and without a length to know it by
        (HALF, {"declared": len(GOOD)}, rf"the download has {len(HALF):,} bytes; expected {len(GOOD):,}"),
        (HALF, {"declared": -1}, rf"the download has {len(HALF):,} bytes; expected {len(GOOD):,}"),
        (b"<html>moved</html>", {}, r"the download has 18 bytes; expected"),
        (b"gone", {"status": 404}, "the server answered 404 Not Found; expected the file"),
        (b"", {"status": 503}, "the server answered 503"),
        # an answer far too long is cut off, not written to the end
        (GOOD + bytes(40_000_000), {}, r"the download has [\d,]+ bytes; expected"),
    ],
    ids=["checksum", "truncated", "truncated-unannounced", "other-page", "404", "503", "endless"],
)
@pytest.mark.parametrize("earlier", [None, b"an older file"])
def test_failed_downloads_leave_nothing(
    content: bytes, answer: dict, message: str, earlier: bytes | None, tmp_path: Path
) -> None:
    target = tmp_path / CIFAR10.archive.name
    if earlier is not None:
        target.write_bytes(earlier)
    with serving(content, **answer) as (address, _):
        layout = published(SMALL["cifar10"], GOOD, f"{address}/{CIFAR10.archive.name}")
        with pytest.raises(InputError, match=message) as caught:
            load_cifar(layout, cache_dir=tmp_path)
    one_line(caught, layout.archive.url)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == (
        {} if earlier is None else {target.name: earlier}
    )


def test_an_endless_answer_is_cut_off(tmp_path: Path) -> None:
    received: list[int] = []
    with serving(bytes(40_000_000)) as (address, _):
        layout = published(SMALL["cifar10"], GOOD, f"{address}/a.tar.gz")
        with pytest.raises(InputError, match=r"the download has (?P<size>[\d,]+) bytes") as caught:
            fetch(layout.archive, tmp_path, lambda what, done, total: received.append(done))
    assert max(received) <= len(GOOD)
    size = int(str(caught.value).split("has ")[1].split(" bytes")[0].replace(",", ""))
    assert size <= len(GOOD) + (1 << 20)


def test_interrupted_download_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(what: str, done: int, total: int) -> None:
        if done > 0:
            raise KeyboardInterrupt

    with serving(GOOD) as (address, _):
        layout = published(SMALL["cifar10"], GOOD, f"{address}/a.tar.gz")
        with pytest.raises(KeyboardInterrupt):
            fetch(layout.archive, tmp_path, interrupt)
    assert not any(tmp_path.iterdir())


def test_no_server(tmp_path: Path) -> None:
    with serving(b"") as (address, _):
        pass  # its port is free again: nobody answers there
    layout = published(SMALL["cifar10"], GOOD, f"{address}/a.tar.gz")
    with pytest.raises(InputError, match=r"the download stopped after 0 of .*refused") as caught:
        fetch(layout.archive, tmp_path)
    one_line(caught, address, "by other means and give its path")
    assert not any(tmp_path.iterdir())


def test_cache_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=r"cannot write to the cache folder '.*cache'"):
        fetch(CIFAR10.archive, tmp_path / "file" / "cache")
