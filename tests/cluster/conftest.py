"""Servers for the tests of this folder: real ones on this machine, started for a test and stopped after."""

import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from s3_server import S3Server

# The pipeline's tests have what is needed here too: a tiny experiment, entries, manifests.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "pipeline"))

KEYS = {
    "AWS_ACCESS_KEY_ID": "someone",
    "AWS_SECRET_ACCESS_KEY": "geheim",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@pytest.fixture
def free_port() -> Callable[[], int]:
    def find() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return probe.getsockname()[1]

    return find


@pytest.fixture(scope="session")
def keys() -> Iterator[None]:
    """Credentials where S3's own tools look for them, for this process and those that it starts."""
    before = {name: os.environ.get(name) for name in KEYS}
    os.environ.update(KEYS)
    yield
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)


@pytest.fixture
def s3(keys: None, free_port: Callable[[], int]) -> Iterator[S3Server]:
    """A server with the bucket `shared`."""
    server = S3Server(free_port())
    server.start()
    try:
        server.client().create_bucket(Bucket="shared")
        yield server
    finally:
        server.kill()
