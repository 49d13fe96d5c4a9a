"""Ray on this machine: quiet, and gone afterwards. Its settings are in `pipeline/__init__.py`."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

OBJECTS = 100_000_000
"""Bytes of shared memory for objects: what processes hand to each other is small here."""


@contextmanager
def local_ray(*, cpus: int, gpus: int = 0) -> Iterator[None]:
    """A Ray of our own with so many processors, whatever the machine has; one that runs already is used."""
    import ray  # takes seconds

    if ray.is_initialized():
        yield
        return
    ray.init(
        num_cpus=cpus,
        num_gpus=gpus,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=OBJECTS,
    )
    try:
        yield
    finally:
        ray.shutdown()
