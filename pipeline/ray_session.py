"""Ray on this machine, as this project sets it up: quiet, private, and gone afterwards."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

SETTINGS = {
    # trials keep the working directory, and are asked for several at a time
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_MAX_PENDING_TRIALS_PG": "8",
    # what is shown and kept is ours
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    # nothing is sent to anybody, and nothing is set up on the way
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    # its ports answer to processes with this user's token only
    "RAY_AUTH_MODE": "token",
}
OBJECTS = 100_000_000
"""Bytes of shared memory for objects: what processes hand to each other is small here."""


def configure_ray() -> None:
    """Set what Ray reads from the environment, some of it when it is imported: call this before that."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)


@contextmanager
def local_ray(*, cpus: int, gpus: int = 0) -> Iterator[None]:
    """A Ray of our own with so many processors, whatever the machine has; one that runs already is used."""
    configure_ray()
    import ray

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
