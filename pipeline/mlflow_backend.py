"""MLflow as this project sets it up: a local database, or a server (see `pipeline.locations`)."""

import logging
import os
import sqlite3
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from nenni_core.errors import InputError
from pipeline.command_line import silence_telemetry
from pipeline.locks import locked_file

if TYPE_CHECKING:
    from mlflow import MlflowClient

ARTIFACTS = "mlartifacts"
KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Opens MLflow's pages for training runs, not those for language models."""
_SQLITE = "sqlite:///"


def database_path(uri: str) -> Path | None:
    """The file of an SQLite database; None for anything else."""
    return Path(uri.removeprefix(_SQLITE)) if uri.startswith(_SQLITE) else None


def exclusive(uri: str) -> AbstractContextManager[None]:
    """Keeps other processes of this machine from changing a local database's structure meanwhile."""
    database = database_path(uri)
    if database is None:
        return nullcontext()
    return locked_file(database.with_name(f"{database.name}-setup.lock"), on_busy=lambda: None)


def connect(uri: str) -> "MlflowClient":
    """A client; a local database is created first if need be, by one process at a time.

    A server that does not answer is given up after seconds, not after MLflow's default of minutes.
    """
    silence_telemetry()
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    from mlflow import MlflowClient  # takes seconds, so not at the top

    for name in ("mlflow", "alembic"):  # after the import, which sets levels of its own
        logging.getLogger(name).setLevel(logging.WARNING)
    # it logs a traceback of every failure that it also raises, which the caller says in one line
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    database = database_path(uri)
    with exclusive(uri):
        if database is not None:
            # The journal mode stays in the file: with a write-ahead log, readers never wait for a writer.
            with closing(sqlite3.connect(database)) as connection:
                connection.execute("PRAGMA journal_mode=WAL")
        client = MlflowClient(tracking_uri=uri)
        client.search_experiments(max_results=1)  # creates the tables
    return client


def experiment_id(client: "MlflowClient", uri: str, name: str) -> str:
    """The MLflow experiment called `name`, created if need be.

    A local one keeps its artifacts in `mlartifacts/` beside the database, under an absolute path. Raises
    `InputError` if that is the path of another folder.
    """
    with exclusive(uri):
        found = client.get_experiment_by_name(name)
        database = database_path(uri)
        location = None if database is None else (database.absolute().parent / ARTIFACTS).as_uri()
        if found is None:
            return client.create_experiment(name, artifact_location=location, tags=KIND)
        if database is not None and found.artifact_location != location:
            raise InputError(
                f"{database.name} was copied or moved here, the files of its runs are in "
                f"{found.artifact_location}; delete it, `python -m pipeline.tracking sync` makes it again"
            )
        if found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
        return found.experiment_id
