"""Where the store and the tracked runs are.

The command line says it, else the environment, else the parameter file, else they are in the working
directory. Neither changes a result, so neither is part of a key.
"""

import os
from pathlib import Path

from pipeline.remote_files import check_no_secrets

STORE_VARIABLE = "NENNI_STORE"
TRACKING_VARIABLE = "MLFLOW_TRACKING_URI"
STORE = "store"
DATABASE = "mlflow.db"


def store_location(option: str | None = None, parameter: str | None = None) -> str:
    """The store: `--store`, else NENNI_STORE, else `store` of the parameter file, else the folder `store`.

    `pipeline.store.open_store` opens it.
    """
    return _first(option, STORE_VARIABLE, parameter, STORE)


def absolute_location(location: str) -> str:
    """The same place for processes that work in other folders; a URL is left as it is."""
    return location if "://" in location else str(Path(location).absolute())


def tracking_location(option: str | None = None, parameter: str | None = None) -> str:
    """MLflow: `--tracking-uri`, else MLFLOW_TRACKING_URI, else the parameter file's, else `mlflow.db` here.

    Raises `InputError` if the parameter file, which others read, has a password in it.
    """
    if parameter is not None and "://" in parameter:
        check_no_secrets(parameter)
    return _first(option, TRACKING_VARIABLE, parameter, f"sqlite:///{Path.cwd() / DATABASE}")


def _first(option: str | None, variable: str, parameter: str | None, default: str) -> str:
    """The first that is said; an empty variable of the environment says nothing."""
    if option is not None:
        return option
    return os.environ.get(variable) or parameter or default
