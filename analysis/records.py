"""What every network made of every image: the tables that attack runs leave as artifacts."""

import tempfile
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl
import polars.selectors as cs

from analysis.comparison import Fourfold
from analysis.runs import ask, open_client
from nenni_core.errors import InputError

FILE = "records.parquet"
INDEX, LABEL, CORRECT, CHANCE = "index", "label", "_correct", "_probability"
Reader = Callable[[str], pl.DataFrame | None]
"""From a run's id to its records; None where it has none."""


class Records:
    """The records of the runs in one MLflow store: each is read when it is first asked for, and kept."""

    def __init__(self, tracking_uri: str) -> None:
        self._tracking_uri = tracking_uri
        self._read: dict[str, pl.DataFrame | None] = {}

    def __call__(self, run_id: str) -> pl.DataFrame | None:
        """Those of a run; what cannot be read is as good as none, since no accuracy rests on it."""
        if run_id not in self._read:
            try:
                self._read[run_id] = read_records(self._tracking_uri, run_id, client=self._client)
            except InputError:
                self._read[run_id] = None
        return self._read[run_id]

    @cached_property
    def _client(self) -> Any:
        return open_client(self._tracking_uri)


def no_records(_: str) -> None:
    """The `Reader` where there is nothing to read."""


def read_records(tracking_uri: str, run_id: str, *, client: Any = None) -> pl.DataFrame | None:
    """One row per test image of the attack run `run_id`; None where the run has no such artifact.

    `index` is the image's place in the test split, `label` its class, `<column>_correct` whether the network
    is right about it in that column of the tables: of a random network on one fresh noise draw, in the worst
    case on most draws. `<column>_probability` is the share of the draws on which it is right, 0 or 1 for
    other networks; clean images have none. `client` is an MLflow client where there is one already. Raises
    `InputError` where MLflow fails.
    """
    client = client or open_client(tracking_uri)
    names = [found.path for found in ask(tracking_uri, client.list_artifacts, run_id)]
    if FILE not in names:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = ask(tracking_uri, client.download_artifacts, run_id, FILE, folder)
        try:
            wanted = cs.by_name(INDEX, LABEL) | cs.ends_with(CORRECT, CHANCE)
            return pl.scan_parquet(Path(path)).select(wanted).collect()
        except (OSError, pl.exceptions.PolarsError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"run {run_id}: {FILE} cannot be read: {reason[:200]}") from error


def fourfold(ours: pl.DataFrame | None, theirs: pl.DataFrame | None, column: str) -> Fourfold | None:
    """On how many images both, one alone or neither is right in `column`, `ours` being `now`.

    Of random networks what is expected of one noise draw of each. None unless both have the column, and the
    same images in the same order.
    """
    if ours is None or theirs is None or not same_images(ours, theirs):
        return None
    mine, other = chances(ours, column), chances(theirs, column)
    if mine is None or other is None:
        return None

    def count(product: pl.Series) -> float:
        return float(product.sum())

    return Fourfold(
        both=count(mine * other),
        only_now=count(mine * (1 - other)),
        only_before=count((1 - mine) * other),
        neither=count((1 - mine) * (1 - other)),
    )


def same_images(ours: pl.DataFrame, theirs: pl.DataFrame) -> bool:
    """Whether both are about the same images in the same order, and about any."""
    return not ours.is_empty() and ours.select(INDEX, LABEL).equals(theirs.select(INDEX, LABEL))


def chances(records: pl.DataFrame, column: str) -> pl.Series | None:
    """Of every image the chance from 0 to 1 that the network is right in `column`; None without records."""
    for name in (column + CHANCE, column + CORRECT):
        if name in records.columns:
            return records[name].cast(pl.Float64)
    return None
