"""For the whole suite: one thread, which is faster for small tensors and does not suffer from neighbours."""

import os
from typing import TYPE_CHECKING

os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start

import torch

torch.set_num_threads(1)

if TYPE_CHECKING:
    import pytest


def pytest_collection_modifyitems(items: "list[pytest.Item]") -> None:
    """Files all of whose tests are slow come first: at the end, other processes would wait for them."""
    quick = {item.path for item in items if item.get_closest_marker("slow") is None}
    items.sort(key=lambda item: item.path in quick)
