"""How the networks of a table differ from their dense teachers: image by image where that can be told."""

from collections.abc import Mapping
from functools import cached_property

import polars as pl

from analysis.comparison import Difference, difference
from analysis.measurement import Run
from analysis.pairing import Comparer
from analysis.tables.robustness import RobustnessTable, Row


class AgainstDense:
    """The changes of a table's networks against their dense teachers, each found once.

    The findings compare with the same `comparer`, so that a page does not call a change clear in one place
    and unclear in another.
    """

    def __init__(
        self,
        table: RobustnessTable,
        attack_runs: pl.DataFrame | None = None,
        comparer: Comparer | None = None,
    ) -> None:
        """`attack_runs` are those that `table` was built from; without them all samples are independent."""
        self._table = table
        self._attack_runs = attack_runs
        self._comparer = comparer
        self._found: dict[tuple[int, str], Difference | None] = {}

    def __call__(self, row: Row, column: str) -> Difference | None:
        """How `row` differs from its teacher in `column`; None if a number lacks or the data differ."""
        key = (id(row), column)  # the table keeps its rows
        if key not in self._found:
            self._found[key] = self._change(row, column)
        return self._found[key]

    def sign(self, row: Row, column: str) -> int | None:
        """1 for a clear rise, -1 for a clear fall, 0 for neither; None where `row` cannot be compared."""
        change = self(row, column)
        return change.sign if change else None

    def _change(self, row: Row, column: str) -> Difference | None:
        dense = self._table.dense_for(row)
        if dense is None or dense.tracked["data_fingerprint"] != row.tracked["data_fingerprint"]:
            return None
        now, before = row.cells[column], dense.cells[column]
        if not now or not before:
            return None
        return self._by_image(row, dense, column) or difference(now, before)

    def _by_image(self, row: Row, dense: Row, column: str) -> Difference | None:
        if self._comparer is None:
            return None
        ours, theirs = (self._by_id.get(each.tracked["run_id"]) for each in (row, dense))
        found = self._comparer.by_image(ours, theirs, column) if ours and theirs else None
        return found.difference if found else None

    @cached_property
    def _by_id(self) -> Mapping[str, Run]:
        runs = () if self._attack_runs is None else self._attack_runs.iter_rows(named=True)
        return {run["run_id"]: run for run in runs}
