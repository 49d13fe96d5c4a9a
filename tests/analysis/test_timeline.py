"""The accelerator's timeline: spans that fill the time, shares that fill the lanes, and words for them."""

import json
from csv import DictWriter
from dataclasses import asdict
from io import StringIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from recorded_runs import Recorder, noise, read_back

from analysis.figures import timeline as figure_of
from analysis.figures.catalogue import Source
from analysis.figures.series import NothingToDrawError
from analysis.files import RunFiles
from analysis.runs import stage_runs
from analysis.timeline import PARTS, Timelines, sentences, spelled, timelines
from hwsim import explain
from hwsim.hardware import load_hardware
from hwsim.layers import Layer
from hwsim.masks import Pattern, random_masks
from hwsim.results import NetworkResult
from hwsim.simulate import simulate_network
from hwsim.technology import load_technology

SHAPES = [
    Layer(
        name=name, in_channels=inputs, out_channels=outputs, kernel_height=3, kernel_width=3,
        in_height=6, in_width=6, out_height=6, out_width=6,
    )
    for name, inputs, outputs in (("conv1", 3, 24), ("stages.0.conv", 24, 136))
]  # fmt: skip


def simulated(core: str, *, ratio: float | None = None, pattern: str | None = None) -> NetworkResult:
    """Of two layers, with random masks, or dense."""
    masks = None
    if ratio is not None or pattern is not None:
        rule = None if pattern is None else Pattern.parse(pattern)
        masks = random_masks(SHAPES, np.random.default_rng(0), ratio=ratio, pattern=rule)
    return simulate_network(SHAPES, load_hardware(core), load_technology("nangate45"), masks)


def layer_table(*results: NetworkResult) -> str:
    """As the stage `simulate` writes it."""
    rows = [
        {"core": result.hardware.name, "layer": one.layer.name, "cycles": one.counters.cycles}
        | {
            share.cause.replace(" ", "_"): share.of_all
            for share in explain.shares(one.counters, result.hardware)
        }
        for result in results
        for one in result.layers
    ]
    text = StringIO()
    writer = DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


DENSE = simulated("unstructured")
RESULTS = {
    "Ratio 0.9, clean": [simulated("unstructured", ratio=0.9)],
    "Pattern 4:8, clean": [simulated(core, pattern="4:8") for core in ("unstructured", "structured")],
}


@pytest.fixture(scope="module")
def source(recorder: Recorder, tmp_path_factory: pytest.TempPathFactory) -> Source:
    """Networks with 50 to 99% of noise; the one with the most has it elsewhere, the next has no tables."""
    name = "timelines"
    recorder.client.create_experiment(name, artifact_location=tmp_path_factory.mktemp("f").as_uri())
    parent = recorder.parent(name)
    rules = {
        "Ratio 0.5, clean": noise(ratio="0.5"),
        "Ratio 0.9, clean": noise(ratio="0.9"),
        "Ratio 0.95, clean": noise(ratio="0.95"),
        "elsewhere": noise(ratio="0.99") | {"target": "random"},
        "Pattern 4:8, clean": noise(pattern="4:8"),
    }
    for label, tags in rules.items():
        run = recorder.stage(parent, "simulate", **tags)
        if label == "Ratio 0.95, clean":
            continue
        results = RESULTS.get(label, RESULTS["Ratio 0.9, clean"])
        recorder.client.log_text(run, layer_table(*results), "layers.csv")
        simulation = {"rows": [{"images": 1.0}], "dense": {"counters": asdict(DENSE.counters)}}
        recorder.client.log_text(run, json.dumps(simulation), "simulation.json")
    found = read_back(recorder, name, {}).parent
    return Source(runs=stage_runs(found, stage=None), files=RunFiles(recorder.tracking_uri))


@pytest.fixture(scope="module")
def found(source: Source) -> Timelines:
    return timelines(source.runs, source.files)


def test_parts_are_all_causes_of_the_simulator_each_once() -> None:
    causes = [cause for part in PARTS for cause in part.causes]
    assert sorted(causes) == sorted(cause.replace(" ", "_") for cause in explain.MEANINGS)
    assert [part.causes for part in PARTS if part.works] == [("precise",), ("approximate",)]


def test_the_noisiest_network_and_the_noisiest_pattern_on_every_core(found: Timelines) -> None:
    assert [one.label for one in found.own] == [
        "Ratio 0.9, clean, unstructured core",
        "Pattern 4:8, clean, unstructured core",
        "Pattern 4:8, clean, structured core",
    ]


def test_layers_follow_each_other_and_fill_the_simulated_time(found: Timelines) -> None:
    results = [result for own in RESULTS.values() for result in own]
    for one, result in zip(found.own, results, strict=True):
        assert [layer.start for layer in one.layers] == [layer.start_cycle for layer in result.layers]
        assert one.layers[-1].end == one.whole.cycles == result.cycles
        for layer in (*one.layers, one.whole):
            assert sum(layer.shares.values()) == pytest.approx(1)


def test_whole_networks_are_what_the_simulator_says_of_them(found: Timelines) -> None:
    results = [result for own in RESULTS.values() for result in own]
    assert found.dense is not None
    spans = [*(one.whole for one in found.own), found.dense]
    for span, result in zip(spans, [*results, DENSE], strict=True):
        expected = {
            share.cause.replace(" ", "_"): share.of_all
            for share in explain.shares(result.counters, result.hardware)
        }
        for part in PARTS:
            assert span.shares[part.name] == pytest.approx(sum(expected[cause] for cause in part.causes))
        assert span.cycles == result.cycles


def lane_areas(ax: Axes) -> dict[str, float]:
    """Unit-cycles that each lane of a panel shows, by its label."""
    labels = [text.get_text() for text in ax.get_yticklabels()]
    areas = dict.fromkeys(labels, 0.0)
    for bar in ax.patches:
        assert isinstance(bar, Rectangle)
        if bar.get_alpha() is None:  # not the light band behind
            lane = len(labels) - 1 - int(bar.get_y())
            areas[labels[lane]] += bar.get_width() * bar.get_height() / figure_of.FULL
    return areas


def test_all_lanes_together_are_full_all_the_time(source: Source, found: Timelines) -> None:
    figure = figure_of.draw(source.runs, source.files)
    totals, *panels = figure.axes
    assert len(panels) == len(found.own)
    for ax, one in zip(panels, found.own, strict=True):
        areas = lane_areas(ax)
        assert sum(areas.values()) == pytest.approx(one.whole.cycles, rel=1e-3)
        for name, area in areas.items():
            assert area == pytest.approx(one.whole.cycles * one.whole.shares[name])
    # a bar for each network ends where its time does
    ends = {bar.get_x() + bar.get_width() for bar in totals.patches if isinstance(bar, Rectangle)}
    assert found.dense is not None
    for span in (found.dense, *(one.whole for one in found.own)):
        assert any(end == pytest.approx(span.cycles) for end in ends)


def test_work_and_waiting_are_told_apart_without_colours(source: Source) -> None:
    for ax in figure_of.draw(source.runs, source.files).axes[1:]:
        labels = [text.get_text() for text in ax.get_yticklabels()]
        for bar in ax.patches:
            assert isinstance(bar, Rectangle)
            if bar.get_alpha() is None:
                waits = labels[len(labels) - 1 - int(bar.get_y())].startswith("wait")
                assert bool(bar.get_hatch()) == waits


def test_words_have_the_shares_of_the_time(found: Timelines) -> None:
    told = sentences(found)
    assert len(told) == len(found.own) + 1
    for words, one in zip(told, found.own, strict=False):
        assert found.dense is not None
        assert words.startswith(f"{one.label}: {spelled(one.whole.cycles)} cycles")
        assert f"{100 * one.whole.cycles / DENSE.cycles:.1f}% of the dense network's" in words
        assert f"multiply {100 * one.whole.working:.1f}% of that time" in words
        assert f"wait {100 - 100 * one.whole.working:.1f}%" in words
    assert "The longest layer, stages.0.conv" in told[0]


@given(st.integers(0, 10**9))
def test_a_number_of_cycles_loses_no_digit(count: int) -> None:
    assert int(spelled(count).replace("\u202f", "")) == count


def test_without_tables_there_is_nothing_to_draw_and_nothing_to_say(source: Source) -> None:
    empty = source.runs.head(0)
    assert timelines(empty, source.files) == Timelines(own=(), dense=None)
    assert sentences(timelines(empty, source.files)) == []
    with pytest.raises(NothingToDrawError, match="cycles by layer"):
        figure_of.draw(empty, source.files)


def test_a_network_without_its_dense_twin_is_told_without_it(found: Timelines) -> None:
    alone = Timelines(own=found.own[:1], dense=None)
    [words] = sentences(alone)
    assert "dense" not in words
