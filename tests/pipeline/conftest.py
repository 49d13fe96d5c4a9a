"""Fixtures of the pipeline's tests."""

import copy
import itertools
import math
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from remote_places import Machine, Place
from tiny_experiment import TINY

from pipeline import remote_store
from pipeline.config import Tracking
from pipeline.remote_store import RemoteStore

if TYPE_CHECKING:
    from mlflow import MlflowClient


@pytest.fixture
def tiny() -> dict[str, Any]:
    """The content of a small parameter file; a test may change its copy."""
    return copy.deepcopy(TINY)


@pytest.fixture(scope="session")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One database for all tests: creating one takes seconds. Each test has its own experiment."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture
def settings(request: pytest.FixtureRequest) -> Tracking:
    return Tracking(experiment=request.node.name)


@pytest.fixture
def client(uri: str) -> "MlflowClient":
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


@pytest.fixture
def own_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to work in with two modules of a user's: `own` (see own_models.py), and one that fails."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("own", "failing"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    shutil.copy(Path(__file__).with_name("own_models.py"), tmp_path / "own.py")
    (tmp_path / "failing.py").write_text("x = 1\nraise RuntimeError('no such\\nluck')\n")
    strictness = torch.get_deterministic_debug_mode()
    yield tmp_path
    torch.set_deterministic_debug_mode(strictness)


@pytest.fixture(params=["file", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "file":
        return Place((tmp_path / "there").as_uri())
    return Place(f"memory:/{tmp_path}/there")


@pytest.fixture
def machine(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A new machine at each call; `lines` gets what it reports. Checkpoints are copied when asked for."""
    monkeypatch.setattr(remote_store, "CHECKPOINT_SHARE", math.inf)
    number = itertools.count()

    def start(lines: list[str] | None = None, **settings: Any) -> RemoteStore:
        report = (lambda line: None) if lines is None else lines.append
        return RemoteStore(place.url, report, cache=tmp_path / f"cache-{next(number)}", **settings)

    return start
