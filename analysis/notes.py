"""What a reader must know before comparing two rows of a table."""

import json
from collections.abc import Iterable
from math import isclose
from typing import Any

import polars as pl

from analysis import names
from analysis.protocol import in_pixels, tracked_settings
from analysis.runs import FINISHED, Parent
from analysis.tables.robustness import RobustnessTable, Row, cell

MOST_NAMED = 20
"""So many networks or runs are named for one reason; of more it is said how many."""


def flags(table: RobustnessTable, runs: pl.DataFrame, parent: Parent) -> list[str]:
    """One sentence per reason for doubt, in plain text; an empty list where there is none.

    `runs` are the runs of the experiment, at least those that `table` was built from.
    """
    every_stage, runs = runs, runs.filter(pl.col("stage") == "attack")
    rows = [row for row in table.rows if row.tracked["run_id"]]
    found = [
        other_set(parent),
        _mixed(rows, "git_commit", "different commits of the code", short=True),
        _dirty(rows),
        _stages_before(rows, every_stage),
        _mixed(rows, "data_fingerprint", "different test data", short=True),
        _devices(rows),
        _image_counts(table),
        _protocols(rows),
        *_misnamed(rows),
        *_disagreements(runs),
        *_impossible(table),
        _superseded(rows, runs),
        _unfinished(runs),
        _newer(parent),
    ]
    return [flag for flag in found if flag]


def other_set(parent: Parent) -> str:
    """That these are not the numbers that the parameter file asks for; "" if they are."""
    if not parent.other_than_wanted:
        return ""
    which = "the set that `--run` names" if parent.named else "the newest set that has results"
    return (
        "These are not the numbers of the parameter file as it stands. "
        f"Shown is {which}, {parent.name!r}. For those of the file: {parent.wanted}."
    )


def missing_cells(table: RobustnessTable) -> list[tuple[str, str]]:
    """(row label, heading of the column) of every cell without the number or verdict that belongs there."""
    return [(row.label, names.column_name(column)) for row, column in table.missing]


def computed_on(device: str | None, threads: int | None) -> str:
    """What numbers depend on in their last digits: "cpu, 2 threads" or "cuda"; "" where nobody knows."""
    if device != "cpu" or threads is None:
        return device or ""
    return f"{device}, {threads} thread{'s' * (threads != 1)}"


def attack_params(row: Row) -> dict[str, dict[str, str]]:
    """The protocol of a row by attack name: {"pgd20": {"kind": "pgd", "eps": "0.031...", ...}}."""
    return tracked_settings(row.tracked["params"])


def _mixed(rows: list[Row], column: str, what: str, *, short: bool = False) -> str:
    by_value: dict[Any, list[str]] = {}
    for row in rows:
        by_value.setdefault(row.tracked[column], []).append(row.label)
    if len(by_value) < 2:
        return ""
    groups = [
        f"{(str(value)[:10] if short else value) or 'unknown'} ({'; '.join(labels)})"
        for value, labels in by_value.items()
    ]
    return f"The rows come from {what}: {', '.join(groups)}."


def _devices(rows: list[Row]) -> str:
    """Where results are not comparable to the bit; rows that have not recorded it are passed over."""
    by_device: dict[str, list[str]] = {}
    for row in rows:
        if where := computed_on(row.tracked["device"], row.tracked["threads"]):
            by_device.setdefault(where, []).append(row.label)
    if len(by_device) < 2:
        return ""
    groups = [f"{where} ({'; '.join(labels)})" for where, labels in by_device.items()]
    return (
        f"The rows come from different devices or numbers of threads: {', '.join(groups)}. "
        "They add floating-point numbers in another order, so that a few images may differ for that alone."
    )


def _dirty(rows: list[Row]) -> str:
    dirty = [row.label for row in rows if row.tracked["git_dirty"]]
    if not dirty:
        return ""
    which = "all rows" if len(dirty) == len(rows) else "; ".join(dirty)
    return f"Made with uncommitted changes, so that the commit alone does not give these numbers: {which}."


def _image_counts(table: RobustnessTable) -> str:
    if len(table.images()) < 2:
        return ""
    counts = [f"{row.label}: {row.images}" for row in table.rows if row.images]
    return f"The rows were measured on different numbers of images ({'; '.join(counts)})."


def _protocols(rows: list[Row]) -> str:
    differing = []
    protocols = [attack_params(row) for row in rows]
    for attack in names.attack_order({name for protocol in protocols for name in protocol}):
        variants = {
            json.dumps(protocol[attack], sort_keys=True) for protocol in protocols if attack in protocol
        }
        if len(variants) > 1:
            differing.append(names.column_name(attack))
    if not differing:
        return ""
    return (
        f"The settings of the attack differ between the rows in {' and '.join(differing)}: see the protocol."
    )


def _stages_before(rows: list[Row], runs: pl.DataFrame) -> str:
    """The teacher or a fine-tuned network may be older than the attack on it."""
    attacked = {row.tracked["git_commit"] for row in rows}
    beside = ("attack", "simulate")  # no attack reads a simulation
    before = runs.filter(~pl.col("stage").is_in(beside) & (pl.col("status") == FINISHED))
    sources = {
        f"{stage} from {(commit or 'unknown')[:10]}{' with uncommitted changes' if dirty else ''}": None
        for stage, commit, dirty in before.select("stage", "git_commit", "git_dirty").iter_rows()
        if commit not in attacked or dirty
    }
    if not sources or not rows:
        return ""
    return f"Stages before the attacks are not of the rows' commit as it stands: {', '.join(sources)}."


def _misnamed(rows: list[Row]) -> Iterable[str]:
    """Columns whose name promises another radius, other steps or gradients than the attack had."""
    for attack in names.attack_order({name for row in rows for name in attack_params(row)}):
        known = names.KNOWN_ATTACK.fullmatch(attack)
        if known is None:
            continue
        promised = {"gradient": "straight_through" if known["straight"] else "blocked"}
        promised |= {"steps": known["steps"]} if known["steps"] else {}
        promised |= {"eps": f"{known['radius']}/255"} if known["radius"] else {}
        settings = [attack_params(row).get(attack, {}) for row in rows]
        for field, value in promised.items():
            said = {one[field] for one in settings if field in one}
            other = sorted({in_pixels(had) if field == "eps" else had for had in said} - {value})
            if other:
                had = f"{field} {' and '.join(other)}, not {value}"
                yield f"The column {names.column_name(attack)} had {had}."


def _disagreements(runs: pl.DataFrame) -> Iterable[str]:
    for run in runs.filter(pl.col("status") == FINISHED).iter_rows(named=True):
        for name, accuracy in run.items():
            column = name.removeprefix("accuracy/")
            counted = column != name and accuracy is not None and run.get(f"correct/{column}") is not None
            share = cell(run, column) if counted else None
            if share and not isclose(share.value, accuracy, abs_tol=1e-6):
                yield (
                    f"Run {run['run_id']} says {names.percent(accuracy, 2)}% for {names.column_name(column)} "
                    f"but counts {share.correct} of {share.images} images; the count is shown."
                )


def _impossible(table: RobustnessTable) -> list[str]:
    found = list(_above_clean(table))
    if len(found) > MOST_NAMED:
        more = f"{len(found) - MOST_NAMED} more networks have accuracies under attack above the clean one."
        return [*found[:MOST_NAMED], more]
    return found


def _above_clean(table: RobustnessTable) -> Iterable[str]:
    for row in table.rows:
        clean = row.cells["clean"]
        above = [
            names.column_name(column)
            for column in table.columns
            if (share := row.cells[column]) and clean and share.value > clean.value
        ]
        if above:
            yield (
                f"{row.label}: accuracy under {', '.join(above)} is above clean accuracy: "
                "that attack does not work on it."
            )


def _superseded(rows: list[Row], runs: pl.DataFrame) -> str:
    extra = runs.filter(pl.col("status") == FINISHED).height - len(rows)
    if extra <= 0:
        return ""
    older = f"{extra} older finished run{'s' * (extra > 1)} of the same networks"
    return f"{older} left out; the newest of each is shown."


def _unfinished(runs: pl.DataFrame) -> str:
    others = runs.filter(pl.col("status") != FINISHED)
    if others.is_empty():
        return ""
    listed = [f"{run['run_id']} ({run['status'].lower()})" for run in others.head(MOST_NAMED).to_dicts()]
    if others.height > MOST_NAMED:
        listed.append(f"{others.height - MOST_NAMED} more")
    return f"Attack runs without a result, not shown: {', '.join(listed)}."


def _newer(parent: Parent) -> str:
    if not parent.newer_without_results:
        return ""
    return (
        "This is not the newest parent run: there is no attack result yet in "
        f"{', '.join(parent.newer_without_results)}."
    )
