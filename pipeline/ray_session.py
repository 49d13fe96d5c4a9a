"""Ray as this project uses it: quiet, closed to others, on this machine or a cluster, and gone afterwards."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nenni_core.errors import InputError
from pipeline.remote_store import CACHE, CACHE_VARIABLE
from pipeline.resources import Capacity

OBJECT_STORE_BYTES = 200_000_000
"""Memory that Ray shares between processes: only the plan of a sweep goes through it."""
NOT_SHIPPED = tuple(
    f"/{name}"  # of the checkout's own folder only, as in .gitignore
    for name in (
        ".git",
        ".venv",
        ".dvc",
        ".store-cache",
        "store",
        "search",
        "mlartifacts",
        "mlflow.db*",
        "reports",
        "outputs",
        "docs",
    )
)
"""What in a checkout is not code."""
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent to anybody
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # nor installed on the way
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # work stays in the working directory
    "RAY_AIR_NEW_OUTPUT": "0",  # what is shown is ours
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_MAX_PENDING_TRIALS_PG": "16",  # trials are asked for several at a time
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # nothing is restored from it
    "TUNE_FORCE_TRIAL_CLEANUP_S": "2",
}
"""What Ray is told in every process."""


def set_environment(*, local: bool) -> None:
    """Settings that Ray reads when it is imported, so call this before. What the user has set stays.

    A Ray of our own asks for a token, as its ports are open to the network; a cluster has its user's rule.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if local and "ray" not in sys.modules:  # later only the processes that it starts would ask for one
        os.environ.setdefault("RAY_AUTH_MODE", "token")


@contextmanager
def cluster(address: str | None, *, cores: int | None) -> Iterator[Capacity]:
    """A connection to Ray at `address`, or Ray on this machine with so many `cores`; gives what it has.

    The code of this checkout is sent along to a cluster, for machines that have none or another one. A Ray
    that this process has started already is used as it is. Raises `InputError` if there is no cluster at the
    address.
    """
    set_environment(local=address is None)
    root = str(Path(__file__).resolve().parent.parent)
    paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    if address is None:  # the workers share what this process has fetched
        os.environ.setdefault(CACHE_VARIABLE, str(Path(CACHE).absolute()))
    import ray

    if ray.is_initialized():
        yield Capacity(machines())
        return
    shared: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if address is None:
        folder = tempfile.mkdtemp(prefix="nenni-", dir=_short_folder())
        ray.init(
            num_cpus=cores,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            _temp_dir=folder,
            **shared,
        )
    else:
        folder = None
        try:
            ray.init(
                address=address, runtime_env={"working_dir": root, "excludes": list(NOT_SHIPPED)}, **shared
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            first_line = (str(error).splitlines() or [""])[0]
            raise InputError(f"--address {address!r}: no Ray cluster answers there: {first_line}") from None
    try:
        yield Capacity(machines())
    finally:
        ray.shutdown()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _short_folder() -> str | None:
    """Where Ray's sockets go: their paths may have some hundred characters only."""
    folder = tempfile.gettempdir()
    return folder if len(folder) < 40 else "/tmp"


def machines() -> list[dict[str, float]]:
    """What the machines of the cluster have that are there now."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]
