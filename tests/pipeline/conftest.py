"""Fixtures of the pipeline's tests."""

import copy
from typing import Any

import pytest
from tiny_experiment import TINY


@pytest.fixture
def tiny() -> dict[str, Any]:
    """The content of a small parameter file; a test may change its copy."""
    return copy.deepcopy(TINY)
