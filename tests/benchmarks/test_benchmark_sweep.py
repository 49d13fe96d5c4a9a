"""The order of a sweep in virtual time, and the generated grid that is looked at ahead."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from benchmarks.sweep import WORKERS, generated_grid, measure
from benchmarks.virtual_workers import at_random, like_a_sweep, log_normal_costs, longest_path
from pipeline.graph import build_graph
from pipeline.grids import load_grid
from pipeline.runner import plan


@pytest.mark.parametrize("workers", WORKERS)
def test_a_sweep_of_two_thousand_stages_takes_hardly_longer_than_it_must(workers: int) -> None:
    graph = like_a_sweep(2000)
    assert 1900 < len(graph.nodes) < 2100
    order = measure("like a sweep", graph, workers, seed=0)
    assert 1 - 1e-9 <= order.ratio <= 1.1


def test_random_graphs_too() -> None:
    order = measure("random", at_random(300, np.random.default_rng(1)), 16, seed=1, known="medians")
    assert 1 - 1e-9 <= order.ratio <= 2 - 1 / 16  # Graham's bound


def test_costs_depend_on_the_seed_alone() -> None:
    graph = like_a_sweep(100)
    first, again, other = (log_normal_costs(graph, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert first == again != other
    assert max(first.values()) < longest_path(graph, first) < sum(first.values())


def test_the_generated_grid_has_as_many_stages_as_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "generated.yaml"
    path.write_text(yaml.safe_dump(generated_grid(400)))
    cells = load_grid(str(path)).cells
    graph = build_graph(
        (planned, cell.until) for planned, cell in zip(plan(c.experiment for c in cells), cells, strict=True)
    )
    assert 400 <= len(graph.nodes) < 400 + 2 * (3 + 3 * 17)
