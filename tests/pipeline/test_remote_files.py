"""Files at a URL: what users get wrong is one line that says it, and no secret is ever in it."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from remote_places import Place
from typer.testing import CliRunner

from nenni_core.errors import InputError
from pipeline import remote_files
from pipeline.remote_files import RemoteFolder, RemoteStoreError, check_no_secrets, without_secrets
from pipeline.store import open_store
from pipeline.store_commands import app


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3n://bucket/prefix", "unknown scheme of a store's URL 's3n'; did you mean 's3'?"),
        ("memroy://store", "did you mean 'memory'?"),
        ("s3://bucket/store?regoin=eu", "unknown option of an S3 URL 'regoin'; did you mean 'region'?"),
        ("s3:///store", "expected the name of a bucket"),
        ("memory://", "expected a bucket or a folder"),
        ("file://host/store", "cannot be used"),
    ],
)
def test_a_url_that_cannot_be_one_is_said(url: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        open_store(url)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "s3://AKIAXYZ:geheim@bucket/store",
        "s3://geheim@bucket/store",
        "sftp://someone:geheim@host:22/store",
        "abfs://:geheim@account.dfs.core.windows.net/store",
        "abfs://container@account.dfs.core.windows.net/store?client_secret=geheim",
        "s3://bucket/store?secret_key=geheim",
        "s3://bucket/store?X-Amz-Signature=geheim",
        "s3://bucket/store?session_token=geheim",
    ],
)
def test_a_url_with_credentials_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(InputError, match="credentials") as caught:
        open_store(url)
    assert "geheim" not in str(caught.value)
    assert "geheim" not in without_secrets(url)
    result = CliRunner().invoke(app, ["ls", "--store", url])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "geheim" not in result.output


@pytest.mark.parametrize("url", ["sqlite:////tmp/a/mlflow.db", "sqlite:///mlflow.db", "store/here", "/a/b"])
def test_a_place_without_a_host_is_shown_as_it_was_given(url: str) -> None:
    assert without_secrets(url) == url
    assert without_secrets(f"{url}?password=geheim") == url


@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket/a/b?region=eu-west-1&endpoint_override=127.0.0.1:9000&scheme=http",
        "sftp://someone@host/store",
        "abfs://container@account.dfs.core.windows.net/store",
        "gs://anonymous@bucket/store",
        "hdfs://someone@namenode:8020/store",
        "http://127.0.0.1:5000",
        "sqlite:////folder/mlflow.db",
    ],
)
def test_a_url_without_credentials_is_fine(url: str) -> None:
    check_no_secrets(url)


def test_a_file_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for location in (str(tmp_path / "file"), (tmp_path / "file").as_uri()):
        result = CliRunner().invoke(app, ["ls", "--store", location])
        assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
        assert "is a file; expected a folder" in result.stderr


def test_a_folder_that_refuses_is_found_before_anything_is_computed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(RemoteStoreError) as caught:
        open_store((tmp_path / "file" / "store").as_uri()).begin("prepare", "a" * 64)
    assert "\n" not in str(caught.value)


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as server:
        yield server.getsockname()[1]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys as S3 wants them, and little patience."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "geheim")
    monkeypatch.setattr(remote_files, "ANSWER_SECONDS", 1.0)
    monkeypatch.setattr(remote_files, "ATTEMPTS", 1)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("silent", [False, True])
def test_a_server_that_does_not_answer_is_given_up(silent: bool, silent_port: int) -> None:
    port = silent_port if silent else 9
    url = f"s3://bucket/store?scheme=http&endpoint_override=127.0.0.1:{port}"
    result = CliRunner().invoke(app, ["ls", "--store", url])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "error: store s3://bucket/store: cannot look into it: the server does not answer" in result.stderr
    assert "geheim" not in result.output


def test_files_come_back_as_they_went(place: Place, tmp_path: Path) -> None:
    folder = RemoteFolder(place.url)
    assert folder.read("a/b") is None
    assert folder.files("") == []
    folder.write("a/b", b"one")
    folder.write("a/b", b"two")
    (tmp_path / "large").write_bytes(bytes(range(256)) * 4096)
    folder.make_folder("a/c")
    folder.upload(tmp_path / "large", "a/c/large")
    folder.download("a/c/large", tmp_path / "back")
    assert folder.read("a/b") == b"two"
    assert (tmp_path / "back").read_bytes() == (tmp_path / "large").read_bytes()
    assert [file.name for file in folder.files("")] == ["a/b", "a/c/large"]
    assert [file.name for file in folder.files("a/c")] == ["a/c/large"]
    with pytest.raises(FileNotFoundError):
        folder.download("a/nothing", tmp_path / "nothing")
    for _ in range(2):  # what is gone may be removed again
        folder.remove("a/b")
        folder.remove_folder("a/c")
    assert folder.files("") == []
