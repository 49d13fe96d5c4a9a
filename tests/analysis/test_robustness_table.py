"""The table: order, numbers, gaps."""

import io

import polars as pl
import pytest
from recorded_runs import DENSE, IMAGES, LATER, Recorded, Recorder, noise, read_back

from analysis.notes import missing_cells
from analysis.remedy import DEFAULT
from analysis.tables.markdown import to_markdown
from analysis.tables.robustness import build_table
from analysis.tables.writing import accuracy_cell, cells, headings

LABELS = [
    "Dense teacher",
    "Ratio 0.5, clean",
    "Ratio 0.9, clean",
    "Ratio 0.9, adversarial",
    "Pattern 2:8, clean",
    "Pattern 4:8, clean",
]
COLUMNS = ("clean", "fgsm", "pgd20", "mifgsm", "pgd20_straight_through")


def test_rows_and_columns_have_their_order(demo: Recorded) -> None:
    table = build_table(demo.runs)
    assert [row.label for row in table.rows] == LABELS
    assert table.columns == COLUMNS
    assert table.missing == []


def test_every_number_comes_from_its_run(demo: Recorded) -> None:
    row = build_table(demo.runs).rows[3]
    assert row.tracked["run_id"] == demo.ids["0.9 adversarial"]
    assert [share.correct for share in row.cells.values() if share] == [180, 150, 140, 145, 130]
    assert row.images == IMAGES
    assert row.reduction_nominal == pytest.approx(1 - 0.17354)
    assert row.reduction_measured == pytest.approx(0.82)
    assert row.printed is not None
    assert row.printed.reduction == pytest.approx(1 - 0.452 / 2.6)


def test_cells_in_words(demo: Recorded) -> None:
    table = build_table(demo.runs)
    assert headings(table) == [
        "Network",
        "Clean",
        "FGSM",
        "PGD-20",
        "MIFGSM",
        "PGD-20, straight-through",
        "BitOPs",
        "Reduction",
        "Measured",
        "Paper",
    ]
    dense, half = table.rows[:2]
    # 110 of 200: see test_comparison
    assert (cells(table, dense)[1].main, cells(table, dense)[1].detail) == ("55.0", "48.1 to 61.7")
    assert [cell.main for cell in cells(table, dense)[5:]] == ["1.00 M", "", "", ""]
    assert [cell.main for cell in cells(table, half)[5:]] == [
        "574 k",
        "\u221242.6%",
        "\u221242.5%",
        "\u221242.7%",
    ]
    assert accuracy_cell(None).main == "missing"


def test_the_dense_teacher_of_the_same_network_is_the_comparison(recorder: Recorder) -> None:
    parent = recorder.parent("two-seeds")
    for seed in ("0", "1"):
        recorder.attack(parent, DENSE | {"seed": seed}, {"clean": 100 + int(seed)})
    recorder.attack(parent, noise(ratio="0.9") | {"seed": "1"}, {"clean": 99})
    recorder.attack(parent, noise(ratio="0.9") | {"seed": "2"}, {"clean": 99})
    table = build_table(read_back(recorder, "two-seeds", {}).runs)
    assert [row.label for row in table.rows] == [
        "Dense teacher, seed 0",
        "Dense teacher, seed 1",
        "Ratio 0.9, clean, seed 1",
        "Ratio 0.9, clean, seed 2",
    ]
    assert [table.dense_for(row) for row in table.rows[2:]] == [table.rows[1], None]


def test_networks_of_different_teachers_are_told_apart_and_not_compared(recorder: Recorder) -> None:
    parent = recorder.parent("two-teachers")
    other = {"trained_by": "clean", "trained_by_title": "Clean training", "pretrain_epochs": "7"}
    for tags in (DENSE, DENSE | other, noise(ratio="0.9") | other):
        recorder.attack(parent, tags, {"clean": 100})
    table = build_table(read_back(recorder, "two-teachers", {}).runs)
    assert [row.label for row in table.rows] == [
        "Dense teacher, pretrain epochs 20",
        "Clean training, pretrain epochs 7",
        "Ratio 0.9, clean, on Clean training, pretrain epochs 7",
    ]
    assert table.dense_for(table.rows[2]) is table.rows[1]


SPARSE = {"trained_by": "sparse", "trained_by_title": "Sparse network (Guo et al., 2018)"}
RANDOM = {
    "trained_by": "rse",
    "trained_by_title": "RSE (Liu et al., 2018)",
    "random": "true",
}


@pytest.mark.parametrize(
    ("recorded", "expected"),
    [
        (("10", "1"), {"10": "10", "1": "1", "2": "1", "": "1"}),
        (("10", ""), {"10": "10", "1": "", "2": "", "": ""}),
        (("10",), {"10": "10", "1": None, "2": None}),
    ],
)
def test_an_ensemble_is_compared_with_the_dense_ensemble_or_the_single_pass(
    recorder: Recorder, recorded: tuple[str, ...], expected: dict[str, str | None]
) -> None:
    parent = recorder.parent(name := f"ensembles-{'-'.join(recorded)}")
    for passes in recorded:
        recorder.attack(parent, DENSE | RANDOM | {"ensemble": passes}, {"clean": 100})
    for passes in expected:
        recorder.attack(parent, noise(ratio="0.9") | RANDOM | {"ensemble": passes}, {"clean": 90})
    table = build_table(read_back(recorder, name, {}).runs)
    for row in table.rows:
        dense, passes = table.dense_for(row), str(row.identity["ensemble"] or "")
        if row.is_dense:
            assert dense is row
        else:
            assert (dense and str(dense.identity["ensemble"] or "")) == expected.pop(passes)
    assert expected == {}


def test_what_a_defence_saves_or_costs_is_shown_and_nothing_where_it_is_nothing(recorder: Recorder) -> None:
    parent = recorder.parent("reductions")
    recorder.attack(parent, DENSE, {"clean": 100})
    recorder.attack(parent, DENSE | SPARSE, {"clean": 100}, bitops=(300_000.0, 310_000.0))
    recorder.attack(parent, DENSE | RANDOM, {"clean": 100}, bitops=(1_005_000.0, 1_005_000.0))
    recorder.attack(
        parent, DENSE | {"trained_by": "trades", "trained_by_title": "TRADES (Z)"}, {"clean": 100}
    )
    table = build_table(read_back(recorder, "reductions", {}).runs)
    assert headings(table)[-4:] == ["BitOPs", "Reduction", "Measured", "Paper"]
    assert {row.label: [cell.main for cell in cells(table, row)[-4:]] for row in table.rows} == {
        "Dense teacher": ["1.00 M", "", "", ""],
        SPARSE["trained_by_title"]: ["300 k", "\u221270.0%", "\u221269.0%", ""],
        RANDOM["trained_by_title"]: ["1.00 M", "+0.5%", "+0.5%", ""],
        "TRADES (Z)": ["1.00 M", "", "", ""],
    }


def test_the_paper_prints_noise_in_adversarially_trained_networks_only(recorder: Recorder) -> None:
    parent = recorder.parent("printed")
    for tags in (
        {},
        {"trained_by": ""},
        SPARSE,
        {"randomize": "bank"},
        {"randomize": "bank", "ensemble": "10"},
    ):
        recorder.attack(parent, noise(ratio="0.9") | tags, {"clean": 100})
    table = build_table(read_back(recorder, "printed", {}).runs)
    shown = {row.label: cells(table, row)[-1].main for row in table.rows if not row.is_dense}
    assert shown == {
        "Ratio 0.9, clean, trained by adversarial": "\u221282.6%",
        "Ratio 0.9, clean, trained by not recorded": "\u221282.6%",
        f"Ratio 0.9, clean, on {SPARSE['trained_by_title']}": "",
        "Ratio 0.9, clean, randomize bank": "\u221282.6%",
        "Ratio 0.9, clean, randomize bank, ensemble of 10": "",
    }


def test_variants_that_differ_in_score_or_approximation_are_told_apart(recorder: Recorder) -> None:
    parent = recorder.parent("variants")
    differing = ({}, {"score": "signed"}, {"bits": "3"}, {"projection_ratio": "0.5"})
    for tags in differing:
        recorder.attack(parent, noise(ratio="0.9") | tags, {"clean": 100})
    labels = {row.label for row in build_table(read_back(recorder, "variants", {}).runs).rows}
    assert labels == {"Dense teacher", "Ratio 0.9, clean"} | {
        f"Ratio 0.9, clean, {departure}" for departure in ("score signed", "bits 3", "projection ratio 0.5")
    }


def test_runs_from_before_a_tag_are_the_networks_that_are_expected(recorder: Recorder) -> None:
    parent = recorder.parent("before-the-tags")
    none = dict.fromkeys(LATER, "")
    recorder.attack(parent, DENSE | none, {"clean": 100})
    recorder.attack(parent, noise(ratio="0.9") | none, {"clean": 90})
    runs = read_back(recorder, "before-the-tags", {}).runs
    assert runs.select(LATER).row(0) == (None,) * len(LATER)
    teacher = {"trained_by": "adversarial", "pretrain_epochs": 20}
    expected = [
        {"defence": "dense"} | teacher,
        {"defence": "noise_injection", "ratio": 0.9, "score": "magnitude", "bits": 4} | teacher,
    ]
    table = build_table(runs, expected=expected)
    assert [row.label for row in table.rows] == ["Dense teacher", "Ratio 0.9, clean"]
    assert table.dense_for(table.rows[1]) is table.rows[0]


def test_two_rows_never_have_the_same_label(recorder: Recorder) -> None:
    """An old run that has not recorded its bits, beside one that has."""
    parent = recorder.parent("old-and-new")
    for bits in ("", "4"):
        recorder.attack(parent, noise(ratio="0.9") | {"bits": bits}, {"clean": 100})
    labels = [row.label for row in build_table(read_back(recorder, "old-and-new", {}).runs).rows]
    assert sorted(labels[1:]) == ["Ratio 0.9, clean, bits 4", "Ratio 0.9, clean, bits not recorded"]


def test_missing_numbers_are_missing_and_say_what_computes_them(recorder: Recorder) -> None:
    parent = recorder.parent("gaps")
    recorder.attack(parent, noise(ratio="0.9"), {"clean": 150, "pgd20": 90})
    recorder.attack(parent, noise(ratio="0.5"), {"clean": 150})
    recorder.attack(parent, noise(pattern="4:8"), {"clean": 1, "pgd20": 1}, status="FAILED")
    table = build_table(
        read_back(recorder, "gaps", {}).runs, expected=[{"defence": "noise_injection", "ratio": 0.99}]
    )
    # the expected network has no objective yet: its label says no more than is known
    assert [row.label for row in table.rows] == [
        "Dense teacher",
        "Ratio 0.5, clean",
        "Ratio 0.9, clean",
        "Ratio 0.99",
        "Pattern 4:8, clean",
    ]
    shown = [[cell.main for cell in cells(table, row)] for row in table.rows]
    assert shown[0] == ["missing", "missing", "missing", "", "", ""]
    assert shown[1][:2] == ["75.0", "missing"]
    assert shown[2][:2] == ["75.0", "45.0"]
    assert shown[3][:3] == shown[4][:3] == ["missing"] * 3
    gaps = missing_cells(table)
    assert len(gaps) == len(table.missing) == 7
    assert ("Ratio 0.5, clean", "PGD-20") in gaps
    text = to_markdown(table, title="t", flags=[], remedy=DEFAULT)
    assert "- Ratio 0.5, clean: PGD-20\n" in text
    assert text.index("tracking sync --params params.yaml") < text.index("`dvc repro`")
    assert table.to_polars().filter(pl.col("label") == "Ratio 0.99")["clean_accuracy"].to_list() == [None]


def test_a_wanted_attack_that_nobody_ran_is_a_column_of_missing_cells(demo: Recorded) -> None:
    table = build_table(demo.runs, attacks=["pgd100", "fgsm"])
    assert table.columns == ("clean", "fgsm", "pgd20", "pgd100", "mifgsm", "pgd20_straight_through")
    assert {column for _, column in table.missing} == {"pgd100"}


def test_an_expected_network_that_has_a_run_adds_no_row(demo: Recorded) -> None:
    expected = [
        {"defence": "dense"},
        {"defence": "noise_injection", "ratio": 0.9, "objective": "clean", "seed": 0},
    ]
    assert [row.label for row in build_table(demo.runs, expected=expected).rows] == LABELS


def test_the_newest_finished_run_of_a_network_counts(recorder: Recorder) -> None:
    parent = recorder.parent("again")
    for count, status in ((10, "FINISHED"), (20, "FINISHED"), (30, "FAILED")):
        recorder.attack(parent, DENSE, {"clean": count}, status=status)
    [row] = build_table(read_back(recorder, "again", {}).runs).rows
    assert row.cells["clean"] is not None
    assert row.cells["clean"].correct == 20


def test_counts_rule_and_are_rebuilt_from_accuracies_where_they_lack(recorder: Recorder) -> None:
    parent = recorder.parent("counts")
    recorder.attack(parent, DENSE, {"clean": 100}, metrics={"accuracy/fgsm": 0.335, "correct/pgd20": 250.0})
    [row] = build_table(read_back(recorder, "counts", {}).runs, attacks=["pgd20"]).rows
    fgsm = row.cells["fgsm"]
    assert fgsm is not None
    assert (fgsm.correct, fgsm.images) == (67, 200)
    assert row.cells["pgd20"] is None  # 250 of 200 images is no count


def test_the_csv_gives_every_number_back(demo: Recorded) -> None:
    frame = build_table(demo.runs).to_polars()
    again = pl.read_csv(io.StringIO(frame.write_csv()), schema=frame.schema)
    assert again.equals(frame)
    row = frame.row(by_predicate=pl.col("label") == "Dense teacher", named=True)
    assert row["fgsm_accuracy"] == 0.55
    assert (row["fgsm_low"], row["fgsm_high"]) == pytest.approx((0.480756, 0.617360), abs=2e-6)
    assert row["run_id"] == demo.ids["dense"]
    assert row["ratio"] is None


def test_the_markdown_table_is_rectangular(demo: Recorded) -> None:
    table = build_table(demo.runs)
    lines = [
        line
        for line in to_markdown(table, title="t", flags=["f"], remedy=DEFAULT).splitlines()
        if line.startswith("|")
    ]
    assert len(lines) == 2 + len(LABELS)
    assert {line.count("|") for line in lines} == {len(headings(table)) + 1}
    assert "200 test images" in to_markdown(table, title="t", flags=[], remedy=DEFAULT)
