"""What every network made of every image: the tables that attack runs leave as artifacts."""

import tempfile
from pathlib import Path

import polars as pl

from analysis.runs import ask, open_client
from nenni_core.errors import InputError

FILE = "records.parquet"
INDEX, LABEL, CORRECT = "index", "label", "_correct"


def read_records(tracking_uri: str, run_id: str) -> pl.DataFrame | None:
    """One row per test image of the attack run `run_id`; None where the run has no such artifact.

    `index` is the image's place in the test split, `label` its class, `<column>_correct` whether the network
    is right about it in that column of the tables: of a random network on one fresh noise draw, in the worst
    case on most draws. Raises `InputError` where MLflow fails.
    """
    client = open_client(tracking_uri)
    names = [found.path for found in ask(tracking_uri, client.list_artifacts, run_id)]
    if FILE not in names:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = ask(tracking_uri, client.download_artifacts, run_id, FILE, folder)
        try:
            return pl.read_parquet(Path(path))
        except (OSError, pl.exceptions.PolarsError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"run {run_id}: {FILE} cannot be read: {reason[:200]}") from error
