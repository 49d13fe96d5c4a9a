"""What makes rows hard to compare is said."""

from recorded_runs import DENSE, LATER, PROTOCOL, Recorded, Recorder, noise, read_back

from analysis.notes import attack_params, flags
from analysis.runs import stage_runs
from analysis.tables.robustness import build_table

COUNTS = {"clean": 150, "pgd20": 90}


def flags_of(recorder: Recorder, experiment: str) -> str:
    found = read_back(recorder, experiment, {})
    return "\n".join(flags(build_table(found.runs), found.runs, found.parent))


def test_comparable_rows_have_no_flag(demo: Recorded) -> None:
    assert flags(build_table(demo.runs), demo.runs, demo.parent) == []


def test_mixed_commits_data_and_image_counts_are_flagged(recorder: Recorder) -> None:
    parent = recorder.parent("mixed")
    recorder.attack(parent, DENSE, COUNTS)
    other = {"git_commit": "d" * 40, "data_fingerprint": "e" * 64, "images": "400"}
    recorder.attack(parent, noise(ratio="0.9") | other, COUNTS, images=400)
    said = flags_of(recorder, "mixed")
    assert "different commits of the code: cccccccccc (Dense teacher), dddddddddd (Ratio 0.9, clean)" in said
    assert "different test data: ffffffffff (Dense teacher), eeeeeeeeee (Ratio 0.9, clean)" in said
    assert "different numbers of images (Dense teacher: 200; Ratio 0.9, clean: 400)" in said
    assert "uncommitted" not in said


def test_rows_of_different_devices_are_flagged(recorder: Recorder) -> None:
    parent = recorder.parent("devices")
    recorder.attack(parent, DENSE, COUNTS)
    recorder.attack(parent, noise(ratio="0.5") | {"device": "cuda", "threads": "8"}, COUNTS)
    recorder.attack(parent, noise(ratio="0.9") | {"device": "", "threads": ""}, COUNTS)
    said = flags_of(recorder, "devices")
    assert "cpu, 2 threads (Dense teacher), cuda (Ratio 0.5, clean)." in said
    assert "Ratio 0.9" not in said  # nothing is known of it


def test_runs_that_have_not_recorded_their_device_have_no_flag(recorder: Recorder) -> None:
    parent = recorder.parent("no-devices")
    for tags in (DENSE, noise(ratio="0.9")):
        recorder.attack(parent, tags | dict.fromkeys(LATER, ""), COUNTS)
    assert flags_of(recorder, "no-devices") == ""


def test_a_dirty_commit_is_flagged(recorder: Recorder) -> None:
    parent = recorder.parent("dirty")
    recorder.attack(parent, DENSE | {"git_dirty": "true"}, COUNTS)
    recorder.attack(parent, noise(ratio="0.9"), COUNTS)
    said = flags_of(recorder, "dirty")
    assert "uncommitted changes, so that the commit alone does not give these numbers: Dense teacher." in said
    assert "commits of" not in said


def test_another_protocol_under_the_same_column_is_flagged(recorder: Recorder) -> None:
    parent = recorder.parent("protocols")
    recorder.attack(parent, DENSE, COUNTS)
    params = PROTOCOL | {"attacks.pgd20.eps": str(4 / 255)}
    recorder.attack(parent, noise(ratio="0.9"), COUNTS, params=params)
    assert "settings of the attack differ between the rows in PGD-20:" in flags_of(recorder, "protocols")


def test_numbers_at_odds_are_flagged(recorder: Recorder) -> None:
    parent = recorder.parent("odds")
    run = recorder.attack(parent, DENSE, COUNTS, metrics={"accuracy/clean": 0.9})
    assert f"Run {run} says 90.00% for Clean but counts 150 of 200 images" in flags_of(recorder, "odds")


def test_an_attack_that_helps_is_flagged(recorder: Recorder) -> None:
    parent = recorder.parent("helps")
    recorder.attack(parent, DENSE, {"clean": 100, "pgd20": 101, "fgsm": 100})
    said = flags_of(recorder, "helps")
    assert "Dense teacher: accuracy under PGD-20 is above clean accuracy" in said


def test_runs_left_out_are_named(recorder: Recorder) -> None:
    parent = recorder.parent("left-out")
    recorder.attack(parent, DENSE, COUNTS)
    recorder.attack(parent, DENSE, COUNTS)
    failed = recorder.attack(parent, noise(ratio="0.9"), COUNTS, status="FAILED")
    newer = recorder.parent("left-out")
    said = flags_of(recorder, "left-out")
    assert "1 older finished run of the same networks left out" in said
    assert f"{failed} (failed)" in said
    assert f"no attack result yet in {newer}" in said


def test_the_protocol_is_read_from_the_parameters(demo: Recorded) -> None:
    protocol = attack_params(build_table(demo.runs).rows[0])
    assert list(protocol) == ["fgsm", "mifgsm", "pgd20", "pgd20_straight_through"]
    assert protocol["pgd20_straight_through"] == {
        "kind": "pgd",
        "eps": str(8 / 255),
        "steps": "20",
        "gradient": "straight_through",
    }


def test_a_column_that_promises_another_attack_is_flagged(recorder: Recorder) -> None:
    params = {
        "attacks.pgd20.steps": "3",
        "attacks.pgd20_straight_through.gradient": "blocked",
        "attacks.fgsm.gradient": "straight_through",
    }
    recorder.attack(recorder.parent("misnamed"), DENSE, COUNTS, params=PROTOCOL | params)
    said = flags_of(recorder, "misnamed").splitlines()
    assert said == [
        "The column FGSM had gradient straight_through, not blocked.",
        "The column PGD-20 had steps 3, not 20.",
        "The column PGD-20, straight-through had gradient blocked, not straight_through.",
    ]


def test_a_grid_s_column_of_another_radius_is_flagged(recorder: Recorder) -> None:
    eps = {"pgd50_eps12": 12 / 255, "pgd50_eps16": 8 / 255}
    params = {f"attacks.{name}.eps": str(value) for name, value in eps.items()}
    recorder.attack(recorder.parent("radius"), DENSE, COUNTS, params=PROTOCOL | params)
    said = flags_of(recorder, "radius").splitlines()
    assert said == ["The column PGD-50, 16/255 had eps 8/255, not 16/255."]


def test_older_stages_before_the_attacks_are_flagged(recorder: Recorder) -> None:
    parent = recorder.parent("older-stages")
    recorder.stage(parent, "prepare")
    recorder.stage(parent, "pretrain", git_commit="a" * 40)
    recorder.stage(parent, "distill", git_dirty="true")
    recorder.stage(parent, "simulate", git_commit="b" * 40)  # no attack reads it
    recorder.attack(parent, DENSE, COUNTS)
    found = read_back(recorder, "older-stages", {})
    [said] = flags(build_table(found.runs), stage_runs(found.parent, stage=None), found.parent)
    assert said.endswith(
        "as it stands: pretrain from aaaaaaaaaa, distill from cccccccccc with uncommitted changes."
    )
