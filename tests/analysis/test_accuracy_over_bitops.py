"""The figure: what it shows, and that it is the same every time."""

import xml.etree.ElementTree as ElementTree
from itertools import combinations
from pathlib import Path

import pytest
from matplotlib.colors import to_hex
from matplotlib.text import Text
from recorded_runs import DENSE, DENSE_BITOPS, Recorded, Recorder, noise, read_back

from analysis.figures.accuracy_over_bitops import NAME, _spread, draw
from analysis.figures.drawing import FORMATS, SERIES_STYLES, render, save
from analysis.tables.robustness import RobustnessTable, build_table


@pytest.fixture(scope="module")
def table(demo: Recorded) -> RobustnessTable:
    return build_table(demo.runs)


def test_two_runs_write_the_same_bytes(table: RobustnessTable, tmp_path: Path) -> None:
    first, second = (save(draw(table), tmp_path / folder, NAME) for folder in ("a", "b"))
    assert [path.name for path in first] == [f"accuracy_over_bitops.{kind}" for kind in FORMATS]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
        assert len(one.read_bytes()) > 5000


def test_there_is_a_panel_per_objective_with_shared_limits(table: RobustnessTable) -> None:
    figure = draw(table)
    assert figure is not None
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles == [
        "small_resnet on digits, fine-tuned on clean images",
        "small_resnet on digits, fine-tuned on adversarial images",
    ]
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()


def test_a_panel_is_named_by_what_departs_from_the_usual(recorder: Recorder) -> None:
    parent = recorder.parent("panels")
    for tags in (DENSE, noise(ratio="0.9") | {"bits": "3"}, noise(ratio="0.9") | {"bits": ""}):
        recorder.attack(parent, tags, {"clean": 100, "pgd20": 50})
    figure = draw(build_table(read_back(recorder, "panels", {}).runs))
    assert figure is not None
    titles = {ax.get_title(loc="left").replace("\n", " ") for ax in figure.axes}
    usual = "small_resnet on digits, fine-tuned on clean images"
    assert titles == {usual, f"{usual}, bits 3"}


def test_points_stand_at_their_numbers(table: RobustnessTable) -> None:
    figure = draw(table)
    assert figure is not None
    clean_panel, adversarial_panel = figure.axes
    drawn: dict[str, set[tuple[float, float]]] = {}
    for container in clean_panel.containers + adversarial_panel.containers:
        line = container.lines[0]
        points = zip(line.get_xdata(), line.get_ydata(), strict=True)
        drawn.setdefault(to_hex(line.get_color()).upper(), set()).update(
            (round(float(x), 1), round(float(y), 6)) for x, y in points
        )
    clean, blocked, straight = (drawn[style[0]] for style in SERIES_STYLES)
    # (percent of the dense BitOPs, percent of 200 images); clean stands 0.9 to the left of its network,
    # straight to the right, and the pattern 4:8 beside the ratio 0.5 that costs the same
    assert blocked == {(100, 50.0), (57.4, 54.0), (17.4, 70.0), (82.4, 51.0), (60.1, 55.0)}
    assert clean == {(99.1, 95.0), (56.5, 94.5), (16.5, 94.0), (16.5, 90.0), (81.5, 95.0), (59.2, 95.0)}
    assert straight == {(100.9, 50.0), (58.3, 50.0), (18.3, 35.0), (18.3, 65.0), (83.3, 49.5), (61.0, 50.5)}


def test_error_bars_are_the_wilson_intervals(table: RobustnessTable) -> None:
    figure = draw(table)
    assert figure is not None
    dense = table.rows[0].cells["pgd20"]
    assert dense is not None
    spans = {
        (round(low, 6), round(high, 6))
        for container in figure.axes[0].containers
        for (_, low), (_, high) in container.lines[2][0].get_segments()
    }
    low, high = dense.interval
    assert (round(100 * low, 6), round(100 * high, 6)) in spans


def test_networks_and_series_are_named_in_the_figure(table: RobustnessTable) -> None:
    figure = draw(table)
    assert figure is not None
    said = [text.get_text() for text in figure.axes[0].texts]
    assert set(said) == {
        "Clean",
        "PGD-20,\nblocked",
        "PGD-20,\nstraight-through",
        "0.9",
        "0.5 / 4:8",
        "2:8",
        "dense",
        "noise",
    }
    assert "1.00 M" in figure.axes[1].get_xlabel()


def test_names_of_networks_of_similar_cost_do_not_overlap(recorder: Recorder) -> None:
    parent = recorder.parent("crowded")
    for tags, cost in (
        (DENSE, DENSE_BITOPS),
        (noise(ratio="0.1"), 0.973 * DENSE_BITOPS),
        (noise(pattern="1:8"), 0.948 * DENSE_BITOPS),
        (noise(ratio="0.2"), 0.87 * DENSE_BITOPS),
    ):
        recorder.attack(parent, tags, {"clean": 100}, bitops=(cost, cost))
    figure = draw(build_table(read_back(recorder, "crowded", {}).runs))
    assert figure is not None
    figure.canvas.draw()
    [ax] = figure.axes
    wanted = {"0.1", "0.2", "1:8", "dense", "noise"}
    boxes = {text.get_text(): text.get_window_extent() for text in ax.texts if text.get_text() in wanted}
    [title] = [found for found in ax.findobj(Text) if found.get_text() == ax.get_title(loc="left")]
    boxes["the title"] = title.get_window_extent()
    assert boxes.keys() == {*wanted, "the title"}
    for one, other in combinations(boxes, 2):
        assert not boxes[one].overlaps(boxes[other]), (one, other)


def test_layers_with_ratios_of_their_own_are_open_and_named(recorder: Recorder) -> None:
    parent = recorder.parent("by-layer")
    recorder.attack(parent, DENSE, {"clean": 100, "pgd20": 50})
    recorder.attack(parent, noise(ratio="0.9"), {"clean": 90, "pgd20": 60}, bitops=(0.2e6, 0.2e6))
    recorder.attack(parent, noise(layer_ratios="cheap"), {"clean": 80, "pgd20": 70}, bitops=(0.1e6, 0.1e6))
    table = build_table(read_back(recorder, "by-layer", {}).runs)
    assert [row.label for row in table.rows] == [
        "Dense teacher",
        "Ratio 0.9, clean",
        "Layer ratios cheap, clean",
    ]
    figure = draw(table)
    assert figure is not None
    assert {"0.9", "cheap"} <= {text.get_text() for text in figure.axes[0].texts}
    assert "open: ratios by layer" in figure.get_supxlabel()


def test_the_worst_case_stands_for_who_knows_the_defence(adaptive: Recorded) -> None:
    figure = draw(build_table(adaptive.runs))
    assert figure is not None
    said = {text.get_text() for text in figure.axes[0].texts}
    assert {"Clean", "PGD-20,\nblocked", "Worst case"} < said
    assert not any("straight" in words for words in said)
    drawn = [
        round(float(value), 6) for line in figure.axes[0].containers for value in line.lines[0].get_ydata()
    ]
    assert 17.0 in drawn  # 34 of 200 in the worst case
    assert 65.0 not in drawn  # 130 of 200 under straight-through PGD


def test_series_can_be_told_apart_without_colour() -> None:
    _, markers, lines = zip(*SERIES_STYLES, strict=True)
    assert len(set(markers)) == len(set(lines)) == len(SERIES_STYLES)


def test_the_svg_is_well_formed_and_has_no_date(table: RobustnessTable) -> None:
    figure = draw(table)
    assert figure is not None
    text = render(figure, "svg").decode()
    assert ElementTree.fromstring(text).tag.endswith("svg")
    assert "date" not in text.lower()


def test_nothing_to_draw_is_no_file(tmp_path: Path, table: RobustnessTable) -> None:
    alone = RobustnessTable(columns=table.columns, rows=table.rows[:1])
    assert draw(alone) is None
    assert save(draw(alone), tmp_path / "figures", NAME) == []
    assert not (tmp_path / "figures").exists()


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ([10.0, 50.0], [10.0, 50.0]),  # far apart: where they belong
        ([50.0, 52.0], [50.0, 60.0]),  # too near: the upper one moves up
        ([98.0, 99.0], [85.0, 95.0]),  # at the top: both move down
        ([1.0, 2.0], [5.0, 15.0]),  # at the bottom: both move up
    ],
)
def test_labels_do_not_overlap(wanted: list[float], expected: list[float]) -> None:
    assert _spread(wanted, [10.0, 10.0], 0.0, 100.0) == expected
