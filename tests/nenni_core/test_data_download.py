"""Downloads from a server on this machine: the whole file or nothing."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from small_cifar import SMALL, check_pixels, contents, one_line, pack, published

from nenni_core.data.cifar import CIFAR10, CifarLayout, load_cifar
from nenni_core.data.download import fetch
from nenni_core.errors import InputError


@pytest.fixture(params=SMALL)
def layout(request: pytest.FixtureRequest) -> CifarLayout:
    return SMALL[request.param]


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
