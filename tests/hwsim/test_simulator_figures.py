"""What the pictures show: the numbers of the curves, the spans of the timeline."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from simulator_commands import NANGATE, SMALL, successful

from hwsim import figures
from hwsim.counters import LayerTrace
from hwsim.hardware import load_hardware
from hwsim.masks import random_mask
from hwsim.simulate import simulate_layer, simulate_network
from hwsim.sweep import FIGURES, read_rows

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results" / "small-figure5"
CORE = load_hardware("unstructured")
VECTOR_UNITS, PROJECTION = 0, 1
"""Heights of the timeline's rows."""


def bars(figure: Figure) -> dict[str, list[tuple[int, int, float]]]:
    """Begin, end and height of the spans of each part, as they are drawn."""
    [ax] = figure.axes
    found = {}
    for drawn in ax.collections:
        assert isinstance(drawn, PolyCollection)
        corners = [np.asarray(path.vertices) for path in drawn.get_paths()]
        found[str(drawn.get_label())] = [
            (round(c[:, 0].min()), round(c[:, 0].max()), float(c[:, 1].min() + c[:, 1].max()) / 2)
            for c in corners
        ]
    return found


@pytest.fixture(scope="module")
def trace() -> LayerTrace:
    """A layer of 8 tiles, half of its neurons noisy."""
    return simulate_layer(SMALL[2], CORE, random_mask(SMALL[2], np.random.default_rng(0), ratio=0.5))


def test_spans_are_as_long_as_what_is_counted(trace: LayerTrace) -> None:
    counters = trace.counters
    found = bars(figures.timeline(trace, "a layer"))
    length = {part: sum(end - begin for begin, end, _ in spans) for part, spans in found.items()}
    assert length["precise"] == counters.precise_cycles
    assert length["approximate"] == counters.approximate_cycles
    waited = counters.projection_stall_cycles + counters.selection_stall_cycles + counters.drain_cycles
    assert length["precise"] + length["approximate"] + waited == counters.cycles
    tiles = -(-SMALL[2].positions // CORE.positions_per_tile)
    additions = SMALL[2].projection_nonzeros * CORE.positions_per_tile  # of a tile; all are full
    words = -(-SMALL[2].inputs_per_output // CORE.lanes) * CORE.positions_per_tile
    assert SMALL[2].positions % CORE.positions_per_tile == 0
    assert length["projection"] == tiles * max(
        -(-additions // CORE.projection_adders), -(-words // CORE.activation_words_per_cycle)
    )
    assert {part: len(spans) for part, spans in found.items()} == dict.fromkeys(length, tiles)


def test_no_unit_does_two_things_at_a_time(trace: LayerTrace) -> None:
    figure = figures.timeline(trace, "a layer")
    found = bars(figure)
    rows = {VECTOR_UNITS: found["approximate"] + found["precise"], PROJECTION: found["projection"]}
    for height, spans in rows.items():
        assert [middle for *_, middle in spans] == pytest.approx([height] * len(spans))
        for (_, end, _), (begin, _, _) in pairwise(sorted(spans)):
            assert end <= begin
        assert 0 <= min(spans)[0] < max(spans)[1] <= trace.counters.cycles
    [ax] = figure.axes
    assert ax.get_xlim() == (0, trace.counters.cycles)
    assert [text.get_text() for text in ax.get_yticklabels()] == ["vector units", "projection"]
    assert ax.get_yticks().tolist() == [VECTOR_UNITS, PROJECTION]


def test_a_tile_is_projected_then_approximated_then_computed(trace: LayerTrace) -> None:
    """And the next tile is approximated while the mask of this one is made."""
    found = {part: sorted(spans) for part, spans in bars(figures.timeline(trace, "a layer")).items()}
    latency = CORE.pipeline_depth_cycles + CORE.selection_latency_cycles
    for projected, approximated, precise in zip(
        found["projection"], found["approximate"], found["precise"], strict=True
    ):
        assert projected[1] <= approximated[0]
        assert approximated[1] + latency <= precise[0]
    for precise, following in zip(found["precise"], found["approximate"][1:], strict=False):
        assert following[1] <= precise[0]


def test_a_dense_layer_is_one_bar_without_a_gap() -> None:
    """Also where groups of channels follow each other: each empties its pipeline."""
    grouped = replace(SMALL[2], groups=2)
    for layer, groups in ((SMALL[2], 1), (grouped, 2)):
        trace = simulate_layer(layer, CORE)
        found = bars(figures.timeline(trace, "dense"))
        assert set(found) == {"precise"}
        gaps = [begin - end for (_, end, _), (begin, _, _) in pairwise(sorted(found["precise"]))]
        assert found["precise"][0][0] == 0
        assert [gap for gap in gaps if gap] == [CORE.pipeline_depth_cycles] * (groups - 1)
        assert max(found["precise"])[1] == trace.counters.cycles - CORE.pipeline_depth_cycles


def crosses(ax: Axes) -> dict[str, tuple[float, float]]:
    """The points that stand for dense networks, by their names."""
    return {
        str(line.get_label()): (float(line.get_xdata()[0]), float(line.get_ydata()[0]))
        for line in ax.get_lines()
        if line.get_marker() == "x"
    }


def test_a_sweep_shows_the_dense_network_on_each_core(tmp_path: Path) -> None:
    successful("sweep", "--model", "small_resnet", "--out", tmp_path)
    rows = read_rows(tmp_path / "sweep.csv")
    dense = {
        name: simulate_network(SMALL, load_hardware(name), NANGATE).summary()
        for name in ("unstructured", "structured")
    }
    shown = {row["core"]: row for row in rows if row["noise"] == "dense"}
    assert set(shown) == set(dense)
    figure = figures.noise_sweep(rows)
    for ax, name in zip(figure.axes, FIGURES, strict=True):
        for core, row in shown.items():
            assert float(row[name]) == dense[core][name]
            over = dense[core][name] / dense["unstructured"][name]
            assert float(row[f"{name}_over_dense"]) == pytest.approx(over)
        assert crosses(ax) == {
            f"{core} core, dense": (0, float(row[f"{name}_over_dense"])) for core, row in shown.items()
        }


def test_tables_without_dense_rows_are_drawn_too() -> None:
    """Those that the pipeline writes, and the published ones."""
    rows = read_rows(RESULTS / "resnet18.csv")
    first = figures.noise_sweep(rows).axes[0]
    assert crosses(first) == {}
    drawn = {
        (str(line.get_label()), float(x), float(y))
        for line in first.get_lines()
        if len(line.get_xydata()) > 2
        for x, y in line.get_xydata()
    }
    assert drawn == {
        (
            f"{row['core']} core, {'N:M' if ':' in row['noise'] else 'ratio'}, {row['masks']} masks",
            100 * float(row["noisy_share"]),
            float(row["seconds_over_dense"]),
        )
        for row in rows
    }
