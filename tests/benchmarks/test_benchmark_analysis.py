"""The made-up runs of the benchmark are runs that the analysis understands."""

from itertools import islice
from pathlib import Path

import pytest

from analysis.paper_tables import build_paper_tables
from analysis.runs import find_parent, stage_runs
from benchmarks.analysis import EXPERIMENT, fill
from benchmarks.synthetic_runs import runs_per_seed, synthetic_runs


def test_they_depend_on_the_seed_alone() -> None:
    first, again = list(synthetic_runs(80)), list(synthetic_runs(80))
    assert first == again
    assert len(first) == 80
    assert first[:40] == list(islice(synthetic_runs(10**9), 40))
    keys = [run.tags["key"] for run in first]
    assert len(set(keys)) == 80


@pytest.mark.slow
def test_two_seeds_give_table_1_without_a_gap(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    count = 2 * runs_per_seed()
    assert fill(uri, count) == count
    assert fill(uri, count) == 0
    runs = stage_runs(find_parent(uri, EXPERIMENT), stage=None)
    assert runs.height == count
    [table] = build_paper_tables(runs, name=EXPERIMENT)
    assert table.datasets == ("cifar10", "cifar100")
    entries = [entry for row in table.rows for entry in row.entries.values()]
    assert all(entry.measurement and entry.measurement.seeds == (0, 1) for entry in entries)
    assert all(entry.fitness.is_comparable for entry in entries)
