"""Tracked runs as a polars frame, read through MLflow's API only.

An experiment is one parent run with a child run per stage; the numbers of the tables are metrics of the
children whose `stage` is "attack".
"""

import gc
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from analysis.columns import COLUMNS, COUNT_PREFIXES
from analysis.protocol import counts_in_worst_case, tracked_settings
from analysis.remedy import DEFAULT, OTHER_FILE, Remedy
from nenni_core.errors import InputError
from pipeline.locations import tracking_location
from pipeline.remote_files import without_secrets

FINISHED = "FINISHED"


class NothingTrackedError(InputError):
    """There is no tracked result to show; the message says what was looked for, where, and what makes it."""


WORST_CASE_SUFFIX = "/worst_case"


@dataclass(frozen=True, kw_only=True)
class Parent:
    """One tracked experiment: the parent run of its stages."""

    run_id: str
    name: str
    experiment: str
    experiment_id: str
    tracking_uri: str
    tags: dict[str, str]
    wanted: Remedy  # for the set that was asked for, whether or not this is it
    newer_without_results: tuple[str, ...] = ()  # parent runs used later that have no attack result yet
    named: bool = False  # whether it was asked for by its id
    other_than_wanted: bool = False  # whether it is not of the set that was asked for

    @property
    def remedy(self) -> Remedy:
        """What to run for the numbers that are missing in this set."""
        return OTHER_FILE if self.other_than_wanted else self.wanted


def find_parent(
    tracking_uri: str,
    experiment: str,
    run: str | None = None,
    *,
    experiment_key: str | None = None,
    remedy: Remedy = DEFAULT,
) -> Parent:
    """The parent run that `run` names (its id, or the start of it), else the newest one with attack results.

    Newest is what was used last: a set that is run again keeps the parent run that it had, and renews its tag
    `last_used_ms`. `experiment_key` identifies a set of experiments: its parent run goes before newer ones if
    it has attack results or simulations; with simulations only another set is taken where none has attacks.
    `remedy` is what messages recommend to get that set. A newer parent run without a finished attack run
    (under way, or failed before) is passed over and listed in `newer_without_results`.
    Raises `NothingTrackedError` where there is none, `InputError` for an id that does not fit and where
    MLflow fails.
    """
    client = open_client(tracking_uri, remedy)
    found = ask(tracking_uri, client.get_experiment_by_name, experiment)
    if found is None:
        place = without_secrets(tracking_uri)
        raise NothingTrackedError(f"no MLflow experiment {experiment!r} in {place}; {remedy}")
    parents = sorted(
        _search(
            tracking_uri,
            client,
            [found.experiment_id],
            "tags.kind = 'experiment'",
            "attributes.start_time DESC",
        ),
        key=_last_used,
        reverse=True,
    )

    def found_as(parent: Any, **circumstances: Any) -> Parent:
        other = experiment_key is not None and parent.data.tags.get("experiment_key") != experiment_key
        return Parent(
            run_id=parent.info.run_id,
            name=parent.info.run_name or parent.info.run_id,
            experiment=experiment,
            experiment_id=found.experiment_id,
            tracking_uri=tracking_uri,
            tags=dict(parent.data.tags),
            wanted=remedy,
            other_than_wanted=other,
            **circumstances,
        )

    if run is not None:
        return found_as(_named_parent(tracking_uri, experiment, parents, run), named=True)
    attack, simulation = (
        f"tags.stage = '{stage}' and attributes.status = '{FINISHED}'" for stage in ("attack", "simulate")
    )
    for candidate in parents:
        wanted = experiment_key is not None and candidate.data.tags.get("experiment_key") == experiment_key
        if wanted and any(
            _has_child(tracking_uri, client, candidate, condition) for condition in (attack, simulation)
        ):
            return found_as(candidate)
    passed_over: list[str] = []
    for candidate in parents:
        if _has_child(tracking_uri, client, candidate, attack):
            return found_as(candidate, newer_without_results=tuple(passed_over))
        passed_over.append(candidate.info.run_id)
    for candidate in parents:  # a grid that ends with the simulation has no attacks
        if _has_child(tracking_uri, client, candidate, simulation):
            return found_as(candidate)
    raise NothingTrackedError(
        f"no finished attack run below {len(parents)} parent run(s) of experiment {experiment!r} "
        f"in {without_secrets(tracking_uri)}; {remedy}"
    )


def load_runs(
    tracking_uri: str | None = None,
    experiment: str = "demo",
    run: str | None = None,
    *,
    stage: str | None = "attack",
) -> pl.DataFrame:
    """The runs of one tracked experiment, one row per run, oldest first.

    `tracking_uri` is MLflow's (default: see `pipeline.locations.tracking_location`), `run` a parent run's
    id (default: see `find_parent`), `stage` the stage to take (None: all of them). The columns are
    those of `analysis.columns.COLUMNS`, whatever was tracked, and one for each of its `METRICS` that a run
    has; `describe_columns` says what each of a frame's is. Runs that did not finish are rows too: look at
    `status`. Raises what `find_parent` raises.
    """
    return stage_runs(find_parent(tracking_location(tracking_uri), experiment, run), stage=stage)


def stage_runs(parent: Parent, *, stage: str | None = "attack") -> pl.DataFrame:
    """The runs below `parent`: the frame that `load_runs` documents."""
    client = open_client(parent.tracking_uri)
    experiment = ask(parent.tracking_uri, client.get_run, parent.run_id).info.experiment_id
    condition = f"tags.`mlflow.parentRunId` = '{parent.run_id}'"
    if stage is not None:
        condition += f" and tags.stage = '{stage}'"
    found = _search(parent.tracking_uri, client, [experiment], condition, "attributes.start_time ASC")
    rows = [_row(run, parent.run_id) for run in found]
    metrics = sorted({name for row in rows for name in row if "/" in name})
    schema: dict[str, pl.DataType] = {name: kind for name, (kind, _) in COLUMNS.items()}
    schema |= {name: pl.Int64() if name.startswith(COUNT_PREFIXES) else pl.Float64() for name in metrics}
    return pl.DataFrame(rows, schema=schema, orient="row")


def _row(run: Any, parent_run_id: str) -> dict[str, Any]:
    tags, metrics, info = run.data.tags, run.data.metrics, run.info
    row: dict[str, Any] = {name: tags.get(name) or None for name in COLUMNS}
    row |= {
        "run_id": info.run_id,
        "parent_run_id": parent_run_id,
        "status": info.status,
        "start_ms": info.start_time,
        "seconds": _finite(metrics.get("seconds")),
        "ratio": _number(tags.get("ratio")),
        "projection_ratio": _number(tags.get("projection_ratio")),
        "git_dirty": _truth(tags.get("git_dirty")),
        "random": _truth(tags.get("random")),
        "images": _whole(metrics.get("images", _number(tags.get("images")))),
        "params": json.dumps(dict(sorted(run.data.params.items()))),
    }
    row |= {
        name: _whole(_number(tags.get(name)))
        for name in ("seed", "bits", "pretrain_epochs", "ensemble", "threads")
    }
    row |= {name: _finite(metrics.get(name)) for name in COLUMNS if name.startswith("bitops_")}
    settings = tracked_settings(row["params"])
    counting = [name for name, own in settings.items() if counts_in_worst_case(name, own)]
    for name, value in metrics.items():
        # where all attacks stand apart from the protocols, the worst case is the clean accuracy, and none
        if "/" in name and (counting or not settings or not name.endswith(WORST_CASE_SUFFIX)):
            row[name] = _whole(value) if name.startswith(COUNT_PREFIXES) else _finite(value)
    return _no_attack_below_the_worst_case(row, counting) if row["random"] else row


def _no_attack_below_the_worst_case(row: dict[str, Any], counting: Sequence[str]) -> dict[str, Any]:
    """The run of a random network, its worst case lowered to the attack that leaves least, if one is lower.

    Few noise draws do not always tell which of several images is the worst one, so that the images that were
    taken for it may do less than those of one attack, and each bounds what an attacker leaves.
    """
    found = f"accuracy{WORST_CASE_SUFFIX}"
    least = [value for name in counting if (value := row.get(f"accuracy/{name}")) is not None]
    if least and row.get(found) is not None and min(least) < row[found]:
        return row | {found: min(least), f"correct{WORST_CASE_SUFFIX}": None}
    return row


def _truth(tag: str | None) -> bool | None:
    return {"true": True, "false": False}.get(tag or "")


def _finite(value: float | None) -> float | None:
    """`value`, or None for what is no number: MLflow stores infinity as the largest float, and NaN as NaN."""
    return None if value is None or value != value or abs(value) > 1e300 else float(value)


def _whole(value: float | None) -> int | None:
    value = _finite(value)
    return None if value is None else round(value)


def _number(text: str | None) -> float | None:
    try:
        return _finite(float(text)) if text else None
    except ValueError:
        return None


def open_client(tracking_uri: str, remedy: Remedy = DEFAULT) -> Any:
    """An MLflow client; refuses a SQLite file that is not there: MLflow would create it and find it empty."""
    path = tracking_uri.removeprefix("sqlite:///")
    if path != tracking_uri and not Path(path).is_file():
        raise NothingTrackedError(f"nothing is tracked: there is no database {path}; {remedy}")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    # A server that is down should be an error within seconds, not after MLflow's seven patient attempts.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    from mlflow import MlflowClient

    return ask(tracking_uri, MlflowClient, tracking_uri=tracking_uri)


def ask(tracking_uri: str, question: Any, /, *arguments: Any, **named: Any) -> Any:
    """Call MLflow; its failures (server down, unknown id, other schema) come back as one line."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        return question(*arguments, **named)
    except (MlflowException, SQLAlchemyError, ImportError) as failure:  # ImportError: a database's driver
        reason = " ".join(str(failure).split())
        place = without_secrets(tracking_uri)
        raise InputError(f"MLflow at {place} does not answer: {reason[:300]}") from failure


def _search(tracking_uri: str, client: Any, ids: list[str], condition: str, order: str) -> Iterator[Any]:
    token: str | None = None
    while True:
        with _uncollected(), _unexpired():
            page = ask(
                tracking_uri,
                client.search_runs,
                ids,
                condition,
                max_results=1000,
                order_by=[order],
                page_token=token,
            )
        yield from page
        token = page.token
        if not token:
            return


@contextmanager
def _uncollected() -> Iterator[None]:
    """No garbage collection meanwhile.

    A page of runs is a hundred thousand objects that all live; looking through them again and again for
    garbage is a third of the time that MLflow takes to make them.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def _unexpired() -> Iterator[None]:
    """Sessions of SQLAlchemy, on which MLflow's stores are built, leave what they have read as it is.

    They would go through every object once more, so that it is read again when it is next looked at: nobody
    does, since MLflow has made its own from them, and it is a quarter of the time. No matter for a server.
    """
    from sqlalchemy import event
    from sqlalchemy.orm import Session

    def keep(session: Session, *_: object) -> None:
        session.expire_on_commit = False

    event.listen(Session, "after_begin", keep)
    try:
        yield
    finally:
        event.remove(Session, "after_begin", keep)


def _has_child(tracking_uri: str, client: Any, parent: Any, condition: str) -> bool:
    whole = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}' and {condition}"
    found = ask(tracking_uri, client.search_runs, [parent.info.experiment_id], whole, max_results=1)
    return len(found) > 0


def _last_used(parent: Any) -> float:
    """Milliseconds since 1970; runs recorded before there was the tag count from their start."""
    last_used = _number(parent.data.tags.get("last_used_ms"))
    return float(parent.info.start_time) if last_used is None else last_used


def _named_parent(uri: str, experiment: str, parents: list[Any], run: str) -> Any:
    fitting = [parent for parent in parents if parent.info.run_id.startswith(run)]
    if len(fitting) == 1:
        return fitting[0]
    if len(fitting) > 1:
        raise InputError(f"run {run!r} is the start of {len(fitting)} parent runs' ids: give more of it")
    known = ", ".join(parent.info.run_id for parent in parents[:5]) or "none"
    raise InputError(
        f"run {run!r} is no parent run of experiment {experiment!r} in {uri}; the newest parent runs: {known}"
    )
