"""Reading tracked runs back."""

import json
import re
from pathlib import Path
from typing import get_args

import polars as pl
import pytest
from recorded_runs import DENSE, IMAGES, Recorded, Recorder, flat, noise, read_back

from analysis import load_runs
from analysis.columns import COLUMNS, METRICS, describe_columns, meaning
from analysis.runs import NothingTrackedError, find_parent, stage_runs
from hwsim.sweep import FIGURES
from nenni_core.errors import InputError
from pipeline.config import Randomize, StageName, Target


def test_the_frame_has_the_documented_columns_and_the_metrics(recorder: Recorder, demo: Recorded) -> None:
    runs = load_runs(recorder.tracking_uri, "demo")
    assert runs.columns[: len(COLUMNS)] == list(COLUMNS)
    assert {name: runs.schema[name] for name in COLUMNS} == {
        name: kind for name, (kind, _) in COLUMNS.items()
    }
    assert all("/" in name for name in runs.columns[len(COLUMNS) :])
    assert runs.height == 6
    run = runs.row(by_predicate=pl.col("run_id") == demo.ids["0.9"], named=True)
    assert run["ratio"] == 0.9
    assert run["pattern"] is None
    assert run["correct/pgd20_straight_through"] == 70
    assert run["accuracy/pgd20"] == 140 / IMAGES
    assert run["git_dirty"] is False
    assert run["seconds"] == 2.5
    assert json.loads(run["params"])["attacks.pgd20.steps"] == "20"


def test_every_column_of_recorded_runs_is_described(demo: Recorded, adaptive: Recorded) -> None:
    for recorded in (demo, adaptive):
        described = describe_columns(recorded.runs)
        assert described["column"].to_list() == recorded.runs.columns
        assert described.filter(meaning="")["column"].to_list() == []
        assert described.filter(column="correct/clean")["type"].to_list() == ["Int64"]


def test_a_column_that_nothing_tracks_has_no_meaning(demo: Recorded) -> None:
    extended = demo.runs.with_columns(
        pl.lit(0.5).alias("loss/of/mine"), pl.lit(0.5).alias("accuracies/clean")
    )
    assert describe_columns(extended).filter(meaning="")["column"].to_list() == [
        "loss/of/mine",
        "accuracies/clean",
    ]
    assert meaning("accuracy/clean/low") == ""  # one part too many


def test_descriptions_name_every_choice() -> None:
    for column, choices in (("stage", StageName), ("target", Target), ("randomize", Randomize)):
        for choice in get_args(choices):
            assert re.search(rf"\b{choice}\b", COLUMNS[column][1]), (column, choice)
    for figure in FIGURES:
        assert f"{figure}/<core>/<masks>" in METRICS
        assert f"{figure}_over_dense/<core>/<masks>" in METRICS


def test_the_notebook_example_of_the_readme_runs(
    recorder: Recorder, demo: Recorded, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", recorder.tracking_uri)
    text = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
    [block] = [
        body for body in re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S) if "load_runs" in body
    ]
    assert len([line for line in block.splitlines() if line]) == 5
    found: dict[str, pl.DataFrame] = {}
    exec(compile(block, "README.md", "exec"), found)  # as a reader would
    assert set(found["noisy"]["run_id"]) == set(demo.ids.values()) - {demo.ids["dense"]}
    assert "accuracy/pgd20" in capsys.readouterr().out


def test_all_stages_can_be_read(demo: Recorded) -> None:
    assert sorted(stage_runs(demo.parent, stage=None)["stage"]) == ["attack"] * 6 + ["pretrain"]


def test_the_newest_parent_with_results_is_taken_and_newer_ones_are_named(recorder: Recorder) -> None:
    older = recorder.parent("newest")
    recorder.attack(older, DENSE, {"clean": 1})
    newer = recorder.parent("newest")
    recorder.attack(newer, DENSE, {"clean": 2})
    empty = recorder.parent("newest")
    recorder.attack(empty, DENSE, {}, status="FAILED")
    found = find_parent(recorder.tracking_uri, "newest")
    assert found.run_id == newer
    assert found.newer_without_results == (empty,)
    assert load_runs(recorder.tracking_uri, "newest")["correct/clean"].to_list() == [2]
    assert load_runs(recorder.tracking_uri, "newest", older[:12])["correct/clean"].to_list() == [1]


def test_a_child_is_no_parent_run(recorder: Recorder, demo: Recorded) -> None:
    with pytest.raises(InputError, match=f"no parent run of experiment 'demo'.*{demo.parent.run_id}"):
        find_parent(recorder.tracking_uri, "demo", demo.ids["dense"])


def test_the_start_of_an_id_must_be_unique(recorder: Recorder) -> None:
    for _ in range(2):
        recorder.parent("twice")
    with pytest.raises(InputError, match="start of 2 parent runs"):
        find_parent(recorder.tracking_uri, "twice", "")


def test_nothing_tracked_says_what_was_looked_for_and_what_makes_it(recorder: Recorder, tmp_path) -> None:
    with pytest.raises(NothingTrackedError, match=r"nowhere' in sqlite:.*dvc repro"):
        find_parent(recorder.tracking_uri, "nowhere")
    recorder.parent("begun")
    with pytest.raises(NothingTrackedError, match=r"no finished attack run below 1 parent run.*dvc repro"):
        find_parent(recorder.tracking_uri, "begun")
    missing = tmp_path / "mlflow.db"
    with pytest.raises(NothingTrackedError, match=r"no database .*mlflow\.db.*dvc repro"):
        load_runs(f"sqlite:///{missing}")
    assert not missing.exists()


def test_a_file_that_is_no_database_is_one_line(tmp_path) -> None:
    broken = tmp_path / "mlflow.db"
    broken.write_text("not a database, and long enough to be told from one " * 100)
    with pytest.raises(InputError) as failure:
        load_runs(f"sqlite:///{broken}")
    assert "\n" not in str(failure.value)


def test_values_that_are_no_numbers_become_null(recorder: Recorder) -> None:
    parent = recorder.parent("odd")
    tags = noise(ratio="many") | {"seed": "", "git_dirty": "perhaps"}
    recorder.attack(
        parent, tags, {"clean": 3}, metrics={"accuracy/pgd20": float("nan")}, bitops=(float("inf"), 1.0)
    )
    [run] = read_back(recorder, "odd", {}).runs.to_dicts()
    assert [run[name] for name in ("ratio", "seed", "git_dirty", "accuracy/pgd20", "bitops_nominal")] == [
        None
    ] * 5
    assert run["bitops_measured"] == 1.0


def test_where_no_attack_counts_there_is_no_worst_case(recorder: Recorder) -> None:
    def columns(experiment: str, **attacks: dict[str, str]) -> set[str]:
        parent = recorder.parent(experiment)
        counts = dict.fromkeys(attacks, 40) | {"clean": 50, "worst_case": 50}
        recorder.attack(parent, DENSE, counts, params=flat(attacks))
        found = read_back(recorder, experiment, {}).runs.columns
        return {name.partition("/")[2] for name in found if name.startswith(("correct/", "accuracy/"))}

    curve = {"kind": "pgd", "steps": "10", "eps": "0.0313725", "in_worst_case": "False"}
    smallest = {"kind": "deepfool", "steps": "50"}
    counted = {"kind": "fgsm", "eps": "0.0313725"}
    assert columns("curves", pgd10=curve, deepfool=smallest) == {"clean", "pgd10", "deepfool"}
    assert columns("counted", pgd10=curve, fgsm=counted) == {"clean", "pgd10", "fgsm", "worst_case"}


def test_the_worst_case_of_a_random_network_is_not_above_an_attack_that_counts(recorder: Recorder) -> None:
    def worst_case(experiment: str, apgd: float, curve: float, **tags: str) -> float:
        parent = recorder.parent(experiment)
        metrics = {"accuracy/clean": 0.5, "accuracy/apgd_ce": apgd, "accuracy/pgd_eps32": curve}
        metrics["accuracy/worst_case"] = 0.2
        attacks = {
            "apgd_ce": {"kind": "apgd_ce", "eps": "0.0313725"},
            "pgd_eps32": {"kind": "pgd", "eps": "0.125", "in_worst_case": "False"},
        }
        recorder.attack(parent, DENSE | tags, {}, metrics=metrics, params=flat(attacks))
        [value] = read_back(recorder, experiment, {}).runs["accuracy/worst_case"]
        return float(value)

    assert worst_case("lowered", 0.15, 0.0, random="true") == 0.15
    assert worst_case("as found", 0.25, 0.0, random="true") == 0.2  # another radius is no matter
    assert worst_case("no random one", 0.15, 0.0, random="false") == 0.2  # would be an error: not hidden
