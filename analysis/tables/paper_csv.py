"""The numbers of a table of the paper in full precision, one row for each, with the protocol behind it."""

import json
from typing import Any

import polars as pl

from analysis.paper_layout import BITOPS
from analysis.paper_tables import Entry, MethodRow, PaperTable
from analysis.provenance import protocol_of

TEXT, REAL, WHOLE = pl.String(), pl.Float64(), pl.Int64()
# Every column with its type; fractions, not percent.
SCHEMA: dict[str, pl.DataType] = {
    "table": WHOLE,
    "model": TEXT,
    "dataset": TEXT,
    "method": TEXT,
    "objective": TEXT,
    "column": TEXT,
    "value": REAL,
    "deviation": REAL,
    "low": REAL,
    "high": REAL,
    "interval": TEXT,
    "images_low": REAL,
    "images_high": REAL,
    "gap": TEXT,
    "rank": WHOLE,
    "printed": REAL,
    "difference": REAL,
    "verdict": TEXT,
    "tolerance": REAL,
    "standing": TEXT,
    "against_claim": TEXT,
    "against_comparison": TEXT,
    "images": WHOLE,
    "test_images": WHOLE,
    "seeds": WHOLE,
    "wanted_seeds": WHOLE,
    "eps": TEXT,
    "step_size": TEXT,
    "steps": TEXT,
    "restarts": TEXT,
    "eot_samples": TEXT,
    "judge_draws": TEXT,
    "ensemble": TEXT,
    "settings": TEXT,
    "git_commit": TEXT,
    "data_fingerprint": TEXT,
    "runs": TEXT,
}


def to_frame(table: PaperTable) -> pl.DataFrame:
    """The columns of `SCHEMA`; of BitOPs `value` and `printed` are shares of the dense network's."""
    rows = [_accuracy(table, row, column) for row in table.rows for column in table.accuracies]
    if table.has_cost:
        rows += [_cost(table, row) for row in table.rows]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def _identity(table: PaperTable, row: MethodRow, column: str) -> dict[str, Any]:
    return dict.fromkeys(SCHEMA) | {
        "table": table.layout.number,
        "model": table.model,
        "dataset": row.dataset,
        "method": row.method.title,
        "objective": row.objective,
        "column": column,
    }


def _accuracy(table: PaperTable, row: MethodRow, column: str) -> dict[str, Any]:
    entry = row.entries[column]
    return _identity(table, row, column) | _numbers(entry) | _standing(entry) | _protocol(row, column)


def _numbers(entry: Entry) -> dict[str, Any]:
    measured = entry.measurement
    found: dict[str, Any] = {
        "gap": entry.found if isinstance(entry.found, str) else None,
        "rank": entry.rank or None,
        "printed": entry.printed,
        "difference": entry.difference,
        "verdict": entry.verdict.word if entry.verdict else None,
        "tolerance": entry.verdict.tolerance if entry.verdict else None,
    }
    if measured is None:
        return found
    low, high = measured.interval
    images_low, images_high = measured.image_interval
    return found | {
        "value": measured.value,
        "deviation": measured.spread.deviation,
        "low": low,
        "high": high,
        "interval": "images (Wilson)" if measured.spread.interval is None else "mean over seeds (Student)",
        "images_low": images_low,
        "images_high": images_high,
    }


def _standing(entry: Entry) -> dict[str, Any]:
    fit = entry.fitness
    return {
        "standing": "claim" if fit.is_claim else "exploratory",
        "against_claim": "; ".join(fit.against_claim),
        "against_comparison": "; ".join(fit.against_comparison),
        "images": fit.images,
        "test_images": fit.test_images,
        "seeds": fit.seeds,
        "wanted_seeds": fit.wanted_seeds,
    }


def _protocol(row: MethodRow, column: str) -> dict[str, Any]:
    behind = protocol_of(row.source, column)
    return {
        "eps": behind.eps,
        "step_size": behind.step_size,
        "steps": behind.steps,
        "restarts": behind.restarts,
        "eot_samples": behind.eot_samples,
        "judge_draws": behind.judge_draws,
        "ensemble": behind.ensemble,
        "settings": json.dumps(behind.settings, sort_keys=True),
        "git_commit": ", ".join(row.source.commits),
        "data_fingerprint": behind.data_fingerprint,
        "runs": ", ".join(behind.runs),
    }


def _cost(table: PaperTable, row: MethodRow) -> dict[str, Any]:
    value, printed = row.source.cost(), row.printed_cost
    return _identity(table, row, BITOPS) | {
        "value": value,
        "gap": "missing" if value is None else None,
        "rank": row.cost_rank or None,
        "printed": printed,
        "difference": None if value is None or printed is None else value - printed,
        "git_commit": ", ".join(row.source.commits),
        "runs": ", ".join(run["run_id"] for run in row.source.runs),
    }
