"""Reading tracked runs back."""

import json

import polars as pl
import pytest
from recorded_runs import DENSE, IMAGES, Recorded, Recorder, flat, noise, read_back

from analysis import load_runs
from analysis.runs import COLUMNS, NothingTrackedError, find_parent, stage_runs
from nenni_core.errors import InputError


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
