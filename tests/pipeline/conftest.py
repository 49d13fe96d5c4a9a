"""Fixtures of the pipeline's tests."""

import copy
from typing import TYPE_CHECKING, Any

import pytest
from tiny_experiment import TINY

from pipeline.config import Tracking

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
