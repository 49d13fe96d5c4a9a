"""Paired tests on the masks of single images, by hand and through MLflow's artifacts."""

from pathlib import Path

import polars as pl
import pytest
from paper_runs import DENSE, attack, frame, noise, prepared
from recorded_runs import DENSE as DENSE_TAGS
from recorded_runs import Recorder
from recorded_runs import noise as noise_tags

from analysis.comparison import Difference, Fourfold, paired_difference
from analysis.names import p_text
from analysis.paired import BEST_BASELINE, MOST_SEEDS, TEACHER, PairedTest, discordant, paired_tests
from analysis.pairing import Comparer
from analysis.paper_tables import PaperTable, build_paper_tables
from analysis.records import FILE, read_records
from analysis.tables import paired_sheet

RSE = {"defence": "dense", "trained_by": "rse_add"}


def records(**correct: str) -> pl.DataFrame:
    """Masks by column, written as "1101"."""
    masks = {f"{name}_correct": [letter == "1" for letter in text] for name, text in correct.items()}
    count = len(next(iter(masks.values())))
    return pl.DataFrame({"index": range(count), "label": [0] * count} | masks)


def table(*rows) -> PaperTable:
    [found] = build_paper_tables(frame(prepared(), *rows), name="table1")
    return found


def only(tests: list[PairedTest], **wanted) -> PairedTest:
    [found] = [test for test in tests if all(getattr(test, name) == v for name, v in wanted.items())]
    return found


def test_discordant_images_by_hand() -> None:
    ours, theirs = records(pgd20="1101000"), records(pgd20="1010111")
    assert discordant(ours, theirs, "pgd20") == (7, 2, 4)
    assert discordant(theirs, ours, "pgd20") == (7, 4, 2)
    assert discordant(ours, theirs, "fgsm") is None
    assert discordant(ours, None, "pgd20") is None


def test_other_images_are_not_paired() -> None:
    ours = records(pgd20="1101")
    assert discordant(ours, records(pgd20="110"), "pgd20") is None
    elsewhere = records(pgd20="1101").with_columns(pl.col("index") + 1)
    assert discordant(ours, elsewhere, "pgd20") is None


def test_against_the_teacher_and_the_best_baseline() -> None:
    found = table(
        attack(DENSE, {"pgd20": 5}, run_id="dense"),
        attack(RSE, {"pgd20": 6}, run_id="rse"),
        attack(noise(0.9), {"pgd20": 7}, run_id="noise"),
    )
    masks = {
        "dense": records(pgd20="1000000000"),
        "rse": records(pgd20="1111100000"),
        "noise": records(pgd20="1111110000"),
    }
    tests = paired_tests(found, masks.get)
    assert len(tests) == 2
    teacher, best = only(tests, role=TEACHER), only(tests, role=BEST_BASELINE)
    assert (teacher.only_ours, teacher.only_theirs, teacher.images) == (5, 0, 10)
    assert teacher.p_value == 2 / 32
    assert teacher.difference == 0.5
    assert best.against == "RSE (Add) (Liu et al., 2018)"
    assert (best.only_ours, best.only_theirs, best.p_value) == (1, 0, 1)
    # the smaller of two p-values counts twice
    assert (teacher.adjusted, best.adjusted) == (4 / 32, 1)


def test_the_teacher_that_is_the_best_baseline_is_asked_once() -> None:
    found = table(attack(DENSE, {}, run_id="dense"), attack(noise(0.9), {}, run_id="noise"))
    masks = {"dense": records(pgd20="10"), "noise": records(pgd20="11")}
    assert [test.role for test in paired_tests(found, masks.get)] == [TEACHER]


def test_networks_of_other_data_or_protocol_are_not_tested() -> None:
    masks = {"dense": records(pgd20="10"), "noise": records(pgd20="11")}
    for other in ({"data_fingerprint": "e" * 64}, {"params": {"attacks.pgd20.steps": "7"}}):
        found = table(attack(DENSE, {}, run_id="dense", **other), attack(noise(0.9), {}, run_id="noise"))
        assert paired_tests(found, masks.get) == []


def test_networks_are_paired_within_a_seed_and_not_in_all_of_many() -> None:
    seeds = range(MOST_SEEDS + 2)
    found = table(
        *(attack(DENSE, {}, run_id=f"dense{seed}", seed=seed) for seed in seeds if seed != 1),
        *(attack(noise(0.9), {}, run_id=f"noise{seed}", seed=seed) for seed in seeds),
    )
    tests = paired_tests(found, lambda run_id: records(pgd20="10" if "dense" in run_id else "11"))
    assert [test.seed for test in tests] == [seed for seed in seeds if seed != 1][: MOST_SEEDS - 1]


def test_records_come_from_the_runs_artifacts(recorder: Recorder, tmp_path: Path) -> None:
    parent = recorder.parent("paired")
    run = recorder.attack(parent, DENSE_TAGS, {"clean": 1})
    without = recorder.attack(parent, noise_tags(ratio="0.9"), {"clean": 1})
    written = records(clean="101")
    written.write_parquet(tmp_path / FILE)
    recorder.client.log_artifact(run, str(tmp_path / FILE))
    found = read_records(recorder.tracking_uri, run)
    assert found is not None
    assert found.equals(written)
    assert read_records(recorder.tracking_uri, without) is None


def test_a_test_as_text() -> None:
    found = table(attack(DENSE, {}, run_id="dense"), attack(noise(0.9), {}, run_id="noise"))
    masks = {"dense": records(pgd20="0" * 16), "noise": records(pgd20="1" * 12 + "0" * 4)}
    tests = paired_tests(found, masks.get)
    sheet = paired_sheet.to_sheet(found, tests, without_records=1)
    [line] = sheet.blocks[0].lines
    [cell] = line.cells
    assert cell.main == "+75.0"
    assert cell.details == ("12 : 0", "p < 0.001")  # 2 / 4096
    assert "all 1 tests" in sheet.caption
    assert sheet.notes == ("1 run without a table of single images: not tested.",)


@pytest.mark.parametrize(("value", "text"), [(0.00099, "p < 0.001"), (0.05, "p = 0.050"), (1.0, "p = 1.000")])
def test_p_values_as_papers_write_them(value: float, text: str) -> None:
    assert p_text(value) == text


def test_an_improvement_of_one_seed_is_that_of_the_same_images() -> None:
    rows = (
        attack(DENSE, {"pgd20": 5}, run_id="dense", images=10),
        attack(noise(0.9), {"pgd20": 7}, run_id="noise", images=10),
    )
    masks = {"dense": records(pgd20="1111100000"), "noise": records(pgd20="1111111000")}

    def gain(comparer: Comparer | None) -> Difference:
        runs = frame(prepared(), *rows)
        [found] = build_paper_tables(runs, name="table1", comparer=comparer)
        [noisy] = [row for row in found.rows if row.improvements and row.improvements["pgd20"].ours]
        assert noisy.improvements is not None
        ours = noisy.improvements["pgd20"].ours
        assert ours is not None
        return ours

    paired, apart = gain(Comparer(masks.__getitem__)), gain(None)
    counts = Fourfold(both=5, only_now=2, only_before=0, neither=3)
    assert paired == paired_difference(counts)
    assert paired.value == pytest.approx(apart.value) == pytest.approx(0.2)
    assert paired.high - paired.low < apart.high - apart.low
