"""Sparse networks: what is called a rise and a fall, and the figure of it."""

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping
from pathlib import Path

import polars as pl
import pytest
from recorded_runs import DENSE, Recorded, Recorder, flat, read_back

from analysis import report, sparsity
from analysis.figures import robustness_over_sparsity as figure
from analysis.figures.drawing import FORMATS, render, save
from analysis.notes import flags
from analysis.summary import summarise
from analysis.tables.robustness import RobustnessTable, build_table

IMAGES = 1000
PARAMS = flat(
    {
        "fgsm_eps1": {"kind": "fgsm", "eps": "1/255", "gradient": "blocked"},
        "pgd20_eps1": {"kind": "pgd", "eps": "1/255", "steps": "20", "gradient": "blocked"},
        "pgd5_eps1": {"kind": "pgd", "eps": "1/255", "steps": "5", "gradient": "blocked"},
        "pgd20_eps2": {"kind": "pgd", "eps": str(2 / 255), "steps": "20", "gradient": "blocked"},
        "deepfool": {"kind": "deepfool", "steps": "50"},
    }
)
BALLS = ("clean", "fgsm_eps1", "pgd20_eps1", "pgd5_eps1", "pgd20_eps2")
RISE_AND_FALL = {0.0: 400, 0.5: 430, 0.8: 520, 0.9: 450, 0.98: 200}
FALL = {0.0: 500, 0.5: 490, 0.8: 420, 0.9: 300, 0.98: 100}
FLAT = {0.0: 400, 0.5: 410, 0.8: 405, 0.98: 395}
RISE = {0.0: 300, 0.5: 350, 0.8: 400, 0.98: 450}


def settings(level: float, method: str, base: str = "clean") -> dict[str, str]:
    """The tags of a sparse network."""
    chosen = {"kind": "sparse", "base": base, "sparsity": level, "method": method, "epochs": 8}
    return {
        "trained_by": f"sparse-base-{base}-sparsity-{level:g}-method-{method}",
        "trained_by_title": "Sparse network (Guo et al., 2018)",
        "trained_by_settings": json.dumps(chosen),
    }


def attacked(
    recorder: Recorder,
    parent: str,
    tags: Mapping[str, str],
    correct: int,
    width: float = 0.02,
    **changes: float,
) -> None:
    """A network with `correct` images left under every attack, and that many thousandths as its distance."""
    distance = correct / IMAGES
    metrics = {"median_distance/deepfool": distance}
    metrics |= {
        f"median_distance/deepfool/{end}": distance + sign * width for end, sign in (("low", -1), ("high", 1))
    }
    metrics = {name: value for name, value in (metrics | changes).items() if value >= 0}
    recorder.attack(
        parent, DENSE | dict(tags), dict.fromkeys(BALLS, correct) | {"clean": 900, "deepfool": 0},
        images=IMAGES, params=PARAMS, metrics=metrics,
    )  # fmt: skip


Recording = Callable[..., Recorded]


@pytest.fixture
def record(recorder: Recorder, request: pytest.FixtureRequest) -> Recording:
    """Records curves by method, each with the correct images by sparsity."""

    def planted(*, start: int | None = None, width: float = 0.02, **curves: Mapping[float, int]) -> Recorded:
        parent = recorder.parent(request.node.name)
        for method, curve in curves.items():
            for level, correct in curve.items():
                attacked(recorder, parent, settings(level, method), correct, width)
        if start is not None:
            tags = {
                "trained_by": "clean",
                "trained_by_title": "Clean",
                "trained_by_settings": '{"kind":"clean"}',
            }
            attacked(recorder, parent, tags, start, width)
        return read_back(recorder, request.node.name, {})

    return planted


def only_study(table: RobustnessTable) -> sparsity.Study:
    [study] = sparsity.studies(table)
    return study


@pytest.mark.parametrize(
    ("curve", "words"),
    [
        (RISE_AND_FALL, sparsity.RISE_AND_FALL),
        (FALL, sparsity.FALL),
        (RISE, sparsity.RISE),
        (FLAT, sparsity.NEITHER),
    ],
)
def test_a_planted_course_is_called_what_it_is(
    record: Recording, curve: dict[float, int], words: str
) -> None:
    table = build_table(record(magnitude=curve).runs)
    study = only_study(table)
    points = study.curves["magnitude"]
    assert [level for level, _ in points] == sorted(curve)
    best = max(curve, key=curve.__getitem__)
    for column in ("fgsm_eps1", "pgd20_eps1", "deepfool"):
        found = sparsity.trend(points, column)
        assert found is not None
        assert found.words == words
        assert found.best == best
        assert found.value == curve[best] / IMAGES
    assert sparsity.measures(table, study) == ["fgsm_eps1", "pgd20_eps1", "pgd20_eps2", "deepfool"]
    said = sparsity.headline(table, study)
    assert ("shows in all 4 curves" in said) == (words == sparsity.RISE_AND_FALL)
    assert ("All 4 fall without a clear rise before." in said) == (words == sparsity.FALL)
    assert ("shows in none of 4 curves" in said) == (words != sparsity.RISE_AND_FALL)
    assert said in summarise(table).headline


def test_the_methods_are_judged_apart_and_the_numbers_are_said(record: Recording) -> None:
    table = build_table(record(magnitude=RISE_AND_FALL, surgery=FALL).runs)
    study = only_study(table)
    said = sparsity.headline(table, study)
    assert "shows in 4 of 8 curves: FGSM at 1/255 (magnitude)" in said
    assert "falls without a clear rise before: FGSM at 1/255 (surgery)" in said
    (first, magnitude), (second, surgery) = sparsity.sentences(table, study)
    assert (first, second) == ("Magnitude pruning", "Dynamic network surgery")
    assert "FGSM at 1/255 rises and then falls (highest at sparsity 0.8 with 52.0%, " in magnitude
    assert (
        "against sparsity 0 +12.0 points, 95% interval +7.6 to +16.3; at sparsity 0.98 against" in magnitude
    )
    assert "DeepFool distance rises and then falls (highest at sparsity 0.8 with 0.520" in magnitude
    assert "Clean accuracy neither clearly rises nor clearly falls" in magnitude
    assert "rises" not in surgery.replace("neither clearly rises", "")


def test_an_interval_that_includes_zero_is_no_rise(record: Recording) -> None:
    """The same distances, not known as well: neither the rise by 0.12 nor the fall by 0.32 is clear."""
    table = build_table(record(magnitude=RISE_AND_FALL, width=0.3).runs)
    found = sparsity.trend(only_study(table).curves["magnitude"], "deepfool")
    assert found is not None
    assert found.words == sparsity.NEITHER


def test_without_a_fine_tuned_one_the_network_before_is_the_dense_one(record: Recording) -> None:
    sparse = {level: correct for level, correct in RISE_AND_FALL.items() if level}
    table = build_table(record(magnitude=sparse, surgery=sparse, start=400).runs)
    study = only_study(table)
    assert not study.fine_tuned
    for points in study.curves.values():
        assert points[0][0] == 0.0
        assert points[0][1].identity["trained_by"] == "clean"
        found = sparsity.trend(points, "pgd20_eps1")
        assert found is not None
        assert found.words == sparsity.RISE_AND_FALL


def test_the_fine_tuned_dense_network_goes_before_the_one_it_was_made_from(record: Recording) -> None:
    sparse = {level: correct for level, correct in FALL.items() if level}
    study = only_study(build_table(record(magnitude=FALL, surgery=sparse, start=100).runs))
    assert study.fine_tuned
    assert all(points[0][1].cells["pgd20_eps1"].correct == 500 for points in study.curves.values())  # type: ignore[union-attr]


def test_without_any_dense_network_nothing_is_claimed(record: Recording) -> None:
    table = build_table(record(magnitude={0.5: 400, 0.8: 500, 0.9: 300}).runs)
    study = only_study(table)
    assert "no dense network" in sparsity.headline(table, study)
    assert sparsity.sentences(table, study) == []
    assert figure.draw(table) is not None


@pytest.mark.parametrize("curves", [{}, {"magnitude": {0.0: 400, 0.5: 410, 0.8: 420}}])
def test_too_few_sparse_networks_draw_nothing(
    record: Recording, curves: dict[str, dict[float, int]], tmp_path: Path
) -> None:
    recorded = record(start=400, **curves)
    table = build_table(recorded.runs)
    assert sparsity.studies(table) == []
    assert save(figure.draw(table), tmp_path / "figures", figure.NAME) == []
    assert not (tmp_path / "figures").exists()
    assert "Robustness over sparsity" not in page(recorded, table)


def test_networks_with_noise_draw_nothing(demo: Recorded) -> None:
    assert figure.draw(build_table(demo.runs)) is None


def test_networks_of_two_bases_are_two_studies(recorder: Recorder) -> None:
    parent = recorder.parent("two-bases")
    for base in ("clean", "adversarial"):
        for level, correct in RISE_AND_FALL.items():
            attacked(recorder, parent, settings(level, "magnitude", base), correct)
    table = build_table(read_back(recorder, "two-bases", {}).runs)
    assert sorted(study.base for study in sparsity.studies(table)) == ["adversarial", "clean"]
    drawn = figure.draw(table)
    assert drawn is not None
    assert len(drawn.subfigs) == 2


def test_an_infinite_distance_is_no_point(recorder: Recorder) -> None:
    """More than half of the images withstand at 0.8; at 0.9 the upper end is infinite."""
    parent = recorder.parent("infinite")
    for level, correct in RISE_AND_FALL.items():
        name = "median_distance/deepfool"
        lacking = {0.8: {name: -1.0, f"{name}/high": -1.0}, 0.9: {f"{name}/high": -1.0}}.get(level, {})
        attacked(recorder, parent, settings(level, "magnitude"), correct, **lacking)
    table = build_table(read_back(recorder, "infinite", {}).runs)
    written = {row["trained_by"].split("-")[4]: row for row in table.to_polars().iter_rows(named=True)}
    assert written["0.5"]["deepfool_median_distance_high"] == 0.45
    assert written["0.8"]["deepfool_median_distance"] is None
    assert written["0.9"]["deepfool_median_distance_high"] is None
    points = dict(only_study(table).curves["magnitude"])
    assert points[0.8].distances == {}
    assert points[0.9].distances["deepfool"].interval == (0.43, float("inf"))
    found = sparsity.trend(tuple(points.items()), "deepfool")
    assert found is not None
    assert found.best == 0.9
    assert found.rise is not None
    assert (found.rise.high, found.rise.sign) == (float("inf"), 1)
    drawn = figure.draw(table)
    assert drawn is not None
    assert render(drawn, "svg") == render(drawn, "svg")


def test_points_stand_at_their_numbers(record: Recording) -> None:
    drawn = figure.draw(build_table(record(magnitude=RISE_AND_FALL).runs))
    assert drawn is not None
    first, second, distances = drawn.axes
    titles = [ax.get_title(loc="left") for ax in drawn.axes]
    assert titles == ["L-infinity, 1/255", "L-infinity, 2/255", "l2"]
    places = [0.0, 0.30103, 0.69897, 1.0, 1.69897]  # decades of the weights that are gone
    for ax, count, scale in ((first, 3, 100), (second, 2, 100), (distances, 1, 1)):
        assert len(ax.containers) == count
        line = ax.containers[-1].lines[0]
        assert list(line.get_xdata()) == pytest.approx(places, abs=1e-5)
        assert list(line.get_ydata()) == pytest.approx(
            [scale * correct / IMAGES for correct in RISE_AND_FALL.values()]
        )
    assert first.get_ylim() == second.get_ylim()
    assert [text.get_text() for text in first.get_legend().get_texts()] == ["Clean", "FGSM", "PGD-20"]


def test_two_runs_write_the_same_bytes(record: Recording, tmp_path: Path) -> None:
    table = build_table(record(magnitude=RISE_AND_FALL, surgery=FALL).runs)
    first, second = (save(figure.draw(table), tmp_path / folder, figure.NAME) for folder in ("a", "b"))
    assert [path.name for path in first] == [f"robustness_over_sparsity.{kind}" for kind in FORMATS]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert "date" not in first[0].read_text().lower()
    assert ElementTree.fromstring(first[0].read_text()).tag.endswith("svg")


def page(recorded: Recorded, table: RobustnessTable) -> str:
    return report.render(
        table,
        parent=recorded.parent,
        attack_runs=recorded.runs.filter(pl.col("stage") == "attack"),
        all_runs=recorded.runs,
        flags=flags(table, recorded.runs, recorded.parent),
        command="python -m analysis",
    )


def test_the_report_shows_the_figure_and_the_words(record: Recording) -> None:
    recorded = record(magnitude=RISE_AND_FALL, surgery=FALL)
    table = build_table(recorded.runs)
    text = page(recorded, table)
    assert "Robustness over sparsity" in text
    assert 'aria-labelledby="sparsity-caption"' in text
    assert "<dt>Dynamic network surgery</dt>" in text
    assert sparsity.headline(table, only_study(table)) in text
    assert report.title(table) == "Sparse networks: small_resnet on digits"
    assert text == page(recorded, table)
