"""Accuracy under every attack and cost, one row per network."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import inf, isfinite
from typing import Any

import polars as pl

from analysis import names, protocol
from analysis.comparison import Distance, Share
from analysis.masking import Verdict, read_verdict
from analysis.paper import PrintedReduction, printed_reduction
from analysis.runs import FINISHED

MISSING = "missing"
# What tells two networks of one experiment apart.
IDENTITY = (
    "model",
    "dataset",
    "defence",
    "ratio",
    "pattern",
    "layer_ratios",
    "objective",
    "target",
    "randomize",
    "selection",
    "score",
    "bits",
    "projection_ratio",
    "ensemble",
    "seed",
    "trained_by",
    "pretrain_epochs",
)
# What of it only a network with noise has.
NOISE = ("ratio", "pattern", "layer_ratios", "objective", *names.USUAL)
# What networks that come from one dense teacher have in common.
TEACHER = ("model", "dataset", "seed", "trained_by", "pretrain_epochs")
# What of that a label writes out where networks differ in it; the defence is in the label anyway.
TOLD = ("model", "dataset", "seed", "pretrain_epochs")
PROVENANCE = (
    "run_id",
    "parent_run_id",
    "key",
    "git_commit",
    "git_dirty",
    "data_fingerprint",
    "device",
    "threads",
    "seconds",
)
BITOPS = ("bitops_dense", "bitops_nominal", "bitops_measured")
UNNAMED = ("images", "status", "random", "trained_by_title", "trained_by_settings", "params")
WORST_CASE = "worst_case"
[MASKING] = names.MASKING


@dataclass(frozen=True, kw_only=True)
class Row:
    """One network: its identity (the columns `IDENTITY`), its numbers and where they come from.

    `cells` has an entry for every column of the table, None where the number is missing; `tracked` holds the
    columns of `PROVENANCE` and `params`, all None where no run finished. `masking` is None where the run has
    no verdict on masked gradients.
    """

    label: str
    identity: Mapping[str, Any]
    cells: Mapping[str, Share | None]
    bitops_dense: float | None
    bitops_nominal: float | None
    bitops_measured: float | None
    printed: PrintedReduction | None
    tracked: Mapping[str, Any]
    masking: Verdict | None = None
    random: bool | None = None
    trained_by_title: str | None = None
    trained_by_settings: Mapping[str, Any] = field(default_factory=dict)
    """Kind and settings of the defence that the dense network was trained by; empty where not recorded."""
    distances: Mapping[str, Distance] = field(default_factory=dict)
    """By attack that looks for the smallest change: the median over the images that were right before."""

    def is_of(self, network: Mapping[str, Any]) -> bool:
        """Whether this is `network`, some columns of `IDENTITY`; what one of them has not recorded fits."""
        return _is_of(self.identity, network)

    @property
    def is_dense(self) -> bool:
        """Whether this is the network without noise."""
        return self.identity["defence"] == "dense"

    @property
    def is_random(self) -> bool:
        """Whether the network draws noise anew for every image."""
        return bool(self.random) or self.identity["randomize"] in protocol.RANDOM

    @property
    def passes(self) -> int:
        """Forward passes behind one prediction; 1 where it is not recorded."""
        return self.identity["ensemble"] or 1

    @property
    def images(self) -> int | None:
        """The number of test images behind the row's accuracies."""
        return next((cell.images for cell in self.cells.values() if cell), None)

    @property
    def cost(self) -> float | None:
        """Nominal BitOPs as a share of the dense network's."""
        return _quotient(self.bitops_nominal, self.bitops_dense)

    @property
    def reduction_nominal(self) -> float | None:
        """The saved share of the dense BitOPs, from the ratio or pattern; None where it is nothing."""
        return None if self.cost is None or (self.is_dense and self.cost == 1) else 1 - self.cost

    @property
    def reduction_measured(self) -> float | None:
        """The saved share of the dense BitOPs, from the measured masks; None where it is nothing."""
        measured = _quotient(self.bitops_measured, self.bitops_dense)
        return None if measured is None or (self.is_dense and measured == 1) else 1 - measured


@dataclass(frozen=True, kw_only=True)
class RobustnessTable:
    """Rows in their order, and `columns`: "clean" and the names of the attacks in the protocol's order."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    @cached_property
    def settings(self) -> Mapping[str, protocol.Settings]:
        """What the rows have tracked of every attack; where they differ, what the first row says."""
        found: dict[str, protocol.Settings] = {}
        for row in self.rows:
            found = protocol.tracked_settings(row.tracked["params"]) | found
        return found

    def kind(self, column: str) -> str:
        """The kind of the attack `column`."""
        return protocol.kind_of(column, self.settings.get(column, {}))

    def counts(self, column: str) -> bool:
        """Whether `column` is an attack that counts in the worst case."""
        settings = self.settings.get(column, {})
        return column not in names.WHOLE and protocol.counts_in_worst_case(column, settings)

    @cached_property
    def main_columns(self) -> tuple[str, ...]:
        """The columns of the main table: all but the adaptive ones and the probes."""
        hidden = {*self.adaptive_columns, *protocol.PROBES}
        return tuple(column for column in self.columns if column not in hidden)

    @cached_property
    def adaptive_columns(self) -> tuple[str, ...]:
        """The attacks of an attacker who knows the defence, in the order of the steps."""
        steps = [column for column in self.columns if self.kind(column) in protocol.ADAPTIVE]
        return tuple(sorted(steps, key=lambda column: protocol.ADAPTIVE.index(self.kind(column))))

    @cached_property
    def has_masking(self) -> bool:
        """Whether a verdict on masked gradients was given on any network."""
        return any(row.masking for row in self.rows)

    @cached_property
    def has_measured(self) -> bool:
        """Whether any network has BitOPs by its measured masks."""
        return any(row.reduction_measured is not None for row in self.rows)

    def is_defined(self, row: Row, column: str) -> bool:
        """Whether `row` can have a number in `column`: some attacks are not for random networks."""
        return not (row.is_random and self.kind(column) in protocol.DETERMINISTIC_ONLY)

    @property
    def missing(self) -> list[tuple[Row, str]]:
        """The cells without a number or verdict that could have one; probes are asked for the verdict."""
        found = []
        for row in self.rows:
            found += [
                (row, column)
                for column in (*self.main_columns, *self.adaptive_columns)
                if row.cells[column] is None and self.is_defined(row, column)
            ]
            if self.has_masking and row.masking is None:
                found.append((row, MASKING))
        return found

    @cached_property
    def _dense_rows(self) -> Mapping[tuple[Any, ...], list[Row]]:
        """The dense networks by what every run has recorded of the teacher: sets may have thousands."""
        found: dict[tuple[Any, ...], list[Row]] = {}
        for row in self.rows:
            if row.is_dense:
                found.setdefault(_certain(row), []).append(row)
        return found

    def dense_for(self, row: Row) -> Row | None:
        """The dense network that `row` is compared with: same model, data set, seed and training.

        Of an ensemble it is the ensemble of as many passes, or else the single pass.
        """
        same = {name: row.identity[name] for name in TEACHER}
        alike = self._dense_rows.get(_certain(row), [])
        found = [dense for dense in alike if _is_of(dense.identity, same)]
        return next((dense for passes in (row.passes, 1) for dense in found if dense.passes == passes), None)

    def images(self) -> list[int]:
        """The image counts that occur, ascending: one where the accuracies are comparable."""
        return sorted({row.images for row in self.rows if row.images})

    def to_polars(self) -> pl.DataFrame:
        """All numbers in full precision, one row per network; a missing number is null.

        `<column>_accuracy`, `_low` and `_high` are fractions (95% Wilson interval), `_correct` counts of
        `images`, null for a mean over noise draws; reductions are fractions of the dense network's BitOPs.
        `<attack>_median_distance`, `_low` and `_high` are l2 norms, null where infinite; there are such
        columns for the attacks that a row has them of.
        `masking` is how many tests of the verdict on masked gradients are raised and `masking_tests` their
        names, both null without a verdict; there are no such columns where no network has one.
        """
        rows = [_record(row, self.columns) for row in self.rows]
        schema = _record_schema(self.columns)
        for attack in names.attack_order({attack for row in self.rows for attack in row.distances}):
            entries = [_distance_record(attack, row.distances.get(attack)) for row in self.rows]
            rows = [record | entry for record, entry in zip(rows, entries, strict=True)]
            schema |= dict.fromkeys(entries[0], pl.Float64())
        if self.has_masking:
            rows = [record | _verdict(row) for record, row in zip(rows, self.rows, strict=True)]
            schema |= {MASKING: pl.Int64(), f"{MASKING}_tests": pl.String()}
        return pl.DataFrame(rows, schema=schema, orient="row")


def build_table(
    runs: pl.DataFrame, *, expected: Iterable[Mapping[str, Any]] = (), attacks: Iterable[str] = ()
) -> RobustnessTable:
    """The table of the attack runs `runs` (see `analysis.load_runs`).

    Of several finished runs of one network the newest counts. A network that has no finished run, one of
    `expected` (mappings with some of the columns `IDENTITY`) that has no run at all, and the dense teacher
    if no run has it, get a row of missing cells; `attacks` names columns that are wanted even if no run has
    them.
    """
    tracked = [_identified(run) for run in runs.sort("start_ms").iter_rows(named=True)]
    newest: dict[tuple[Any, ...], dict[str, Any]] = {}
    for run in tracked:
        key = tuple(run[name] for name in IDENTITY)
        if run["status"] == FINISHED or key not in newest:
            newest[key] = run
    found = list(newest.values())
    wanted = [dict(one) for one in expected]
    if not any(one["defence"] == "dense" for one in [*found, *wanted]):
        wanted.insert(0, {"defence": "dense"})
    for one in wanted:
        if not any(_is_of(run, one) for run in found):
            found.append(_blank(one, tracked))
    found.sort(key=names.variant_order)

    finished = [run for run in found if run["status"] == FINISHED]
    measured = {name.partition("/")[2] for run in finished for name in run if name.startswith("accuracy/")}
    columns = ("clean", *names.attack_order({*measured, *attacks} - {"clean"}))
    labels = _labels(found)
    rows = (_table_row(run, columns, label) for run, label in zip(found, labels, strict=True))
    return RobustnessTable(columns=columns, rows=tuple(rows))


def cell(run: Mapping[str, Any], column: str) -> Share | None:
    """The accuracy of `run` in `column`, from its count or else from its accuracy; None if missing.

    Random networks that are judged on several noise draws have no count.
    """
    if run["status"] != FINISHED or not run["images"]:
        return None
    correct, accuracy = run.get(f"correct/{column}"), run.get(f"accuracy/{column}")
    if correct is None and accuracy is not None:
        correct = accuracy * run["images"]
        if abs(correct - round(correct)) < 1e-6:
            correct = round(correct)  # a count but for rounding
    if correct is None or not 0 <= correct <= run["images"]:
        return None
    return Share(correct=correct, images=run["images"])


def _distances(run: Mapping[str, Any]) -> dict[str, Distance]:
    """The median distances of a run; an end that is not recorded is an infinite one."""
    found = {}
    for name, value in run.items():
        prefix, _, attack = name.partition("/")
        if prefix == "median_distance" and "/" not in attack and value is not None:
            low, high = run.get(f"{name}/low"), run.get(f"{name}/high")
            ends = (-inf if low is None else low, inf if high is None else high)
            found[attack] = Distance(value=value, interval=ends)
    return found


def _certain(row: Row) -> tuple[Any, ...]:
    """What a network shares with its teacher and no run has left unrecorded."""
    return tuple(row.identity[name] for name in TEACHER if name not in names.LATER)


def _identified(run: dict[str, Any]) -> dict[str, Any]:
    """`run`; a dense network has no noise, so that what its tags say of noise is dropped."""
    if run["defence"] != "dense":
        return run
    return run | dict.fromkeys(NOISE)


def _is_of(run: Mapping[str, Any], network: Mapping[str, Any]) -> bool:
    """Whether `run` is of `network`; what one of them has not recorded is not held against it."""
    return all(
        run[name] == value or (name in names.LATER and None in (run[name], value))
        for name, value in network.items()
    )


def _labels(found: list[dict[str, Any]]) -> list[str]:
    """The labels of all rows: each says what its network has for itself, no two are the same."""
    telling = [name for name in TOLD if len({run[name] for run in found} - {None}) > 1]
    labels = [names.variant_name(run, telling=telling) for run in found]
    for label in {label for label in labels if labels.count(label) > 1}:
        places = [place for place, other in enumerate(labels) if other == label]
        # the same words for what is not the same: a value that one of them has not recorded
        apart = [name for name in names.LATER if len({found[place][name] for place in places}) > 1]
        for place in places:
            labels[place] = names.variant_name(found[place], telling=[*telling, *apart])
    return labels


def _blank(one: Mapping[str, Any], tracked: list[dict[str, Any]]) -> dict[str, Any]:
    """A network without a run: as `one` says; its teacher as in the runs where they agree."""
    blank: dict[str, Any] = dict.fromkeys((*IDENTITY, *PROVENANCE, *BITOPS, *UNNAMED))
    for name in TEACHER:
        values = {run[name] for run in tracked}
        blank[name] = values.pop() if len(values) == 1 else None
    return blank | dict(one)


def _table_row(run: dict[str, Any], columns: tuple[str, ...], label: str) -> Row:
    done = run["status"] == FINISHED
    return Row(
        label=label,
        identity={name: run[name] for name in IDENTITY},
        cells={column: cell(run, column) for column in columns},
        bitops_dense=run["bitops_dense"] if done else None,
        bitops_nominal=run["bitops_nominal"] if done else None,
        bitops_measured=run["bitops_measured"] if done else None,
        printed=_printed(run),
        tracked={name: run[name] if done else None for name in (*PROVENANCE, "params")},
        masking=read_verdict(run) if done else None,
        random=run["random"],
        trained_by_title=run["trained_by_title"],
        trained_by_settings=json.loads(run["trained_by_settings"] or "{}"),
        distances=_distances(run) if done else {},
    )


def _printed(run: Mapping[str, Any]) -> PrintedReduction | None:
    """What the paper prints: noise in adversarially trained networks, as much in all layers; no ensembles."""
    other = run["defence"] == "dense" or run["trained_by"] not in names.PLAIN or (run["ensemble"] or 1) > 1
    return (
        None
        if other or run["layer_ratios"]
        else printed_reduction(run["model"], run["ratio"], run["pattern"])
    )


def _quotient(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole


def _record(row: Row, columns: tuple[str, ...]) -> dict[str, Any]:
    record: dict[str, Any] = {"label": row.label, **row.identity, "images": row.images}
    for column in columns:
        share = row.cells[column]
        low, high = share.interval if share else (None, None)
        record[f"{column}_correct"] = share.count if share else None
        record[f"{column}_accuracy"] = share.value if share else None
        record[f"{column}_low"], record[f"{column}_high"] = low, high
    record |= {name: getattr(row, name) for name in BITOPS}
    record["reduction_nominal"] = row.reduction_nominal
    record["reduction_measured"] = row.reduction_measured
    record["reduction_paper"] = row.printed.reduction if row.printed else None
    return record | {name: row.tracked[name] for name in PROVENANCE}


def _distance_record(attack: str, distance: Distance | None) -> dict[str, float | None]:
    ends = (distance.value, *distance.interval) if distance else (None, None, None)
    columns = (f"{attack}_median_distance{suffix}" for suffix in ("", "_low", "_high"))
    finite = (None if end is None or not isfinite(end) else end for end in ends)
    return dict(zip(columns, finite, strict=True))


def _verdict(row: Row) -> dict[str, Any]:
    raised = None if row.masking is None else row.masking.raised
    return {
        MASKING: None if raised is None else len(raised),
        f"{MASKING}_tests": None if raised is None else ", ".join(raised),
    }


def _record_schema(columns: tuple[str, ...]) -> dict[str, pl.DataType]:
    text, whole, real = pl.String(), pl.Int64(), pl.Float64()
    schema: dict[str, pl.DataType] = {"label": text}
    schema |= dict.fromkeys(IDENTITY, text) | {"ratio": real, "projection_ratio": real}
    schema |= dict.fromkeys(("bits", "seed", "ensemble", "pretrain_epochs", "images"), whole)
    for column in columns:
        schema[f"{column}_correct"] = whole
        schema |= dict.fromkeys((f"{column}_accuracy", f"{column}_low", f"{column}_high"), real)
    schema |= dict.fromkeys((*BITOPS, "reduction_nominal", "reduction_measured", "reduction_paper"), real)
    schema |= dict.fromkeys(PROVENANCE, text) | {"git_dirty": pl.Boolean(), "seconds": real}
    return schema | {"threads": whole}
