"""The verdict on masked gradients: from the tracked metrics into every table."""

import io
import re
from typing import Any

import polars as pl
from hypothesis import given
from hypothesis import strategies as st
from recorded_runs import DENSE, NUMBERS, Recorded, Recorder, noise, read_back, verdict

from analysis.masking import GAP, TESTS, TOLERANCE, read_verdict
from analysis.names import percent
from analysis.notes import missing_cells
from analysis.remedy import DEFAULT
from analysis.tables import masking
from analysis.tables.markdown import to_markdown
from analysis.tables.robustness import build_table
from analysis.tables.writing import cells, headings, masking_cell
from nenni_core.evaluation import masking as core

LABELS = ("Dense teacher", "Ratio 0.9, clean", "Ratio 0.9, clean, randomize bank")


def test_metrics_of_the_verdict_are_fractions_and_no_accuracies(adaptive: Recorded) -> None:
    kinds = {name: kind for name, kind in adaptive.runs.schema.items() if name.startswith("masking/")}
    assert set(kinds) == set(verdict())
    assert set(kinds.values()) == {pl.Float64()}
    assert not any("protocols_disagree" in column for column in build_table(adaptive.runs).columns)


@given(
    raised=st.sets(st.sampled_from(list(TESTS))),
    numbers=st.fixed_dictionaries({"left": st.floats(0, 1), "share": st.floats(0, 1)}),
)
def test_every_verdict_is_read_as_it_was_tracked(raised: set[str], numbers: dict[str, float]) -> None:
    metrics: dict[str, Any] = verdict(*raised)
    metrics["masking/unbounded_attack_fails/left"] = numbers["left"]
    metrics["masking/zero_gradients/share"] = numbers["share"]
    backwards = dict(reversed(metrics.items())) | {"accuracy/pgd20": 0.5}
    found = read_verdict(backwards)
    assert found is not None
    assert [test.name for test in found.tests] == list(TESTS)
    assert found.raised == tuple(name for name in TESTS if name in raised)
    for test in found.tests:
        assert tuple(test.numbers) == TESTS[test.name]
        for number, value in test.numbers.items():
            assert value == metrics[f"masking/{test.name}/{number}"]
    cell = masking_cell(found)
    if raised:
        assert cell.main == f"{len(raised)} of 6"
        assert {name.replace(" ", "_") for name in cell.detail.split(", ")} == raised
    else:
        assert (cell.main, cell.detail) == ("no sign", "")


def test_a_run_without_these_metrics_has_no_verdict() -> None:
    assert read_verdict({"accuracy/pgd20": 0.5, "masking/zero_gradients": None}) is None


def test_a_test_that_only_the_future_knows_comes_last() -> None:
    found = read_verdict({"masking/a_new_test": 1.0, "masking/a_new_test/number": 0.5} | verdict())
    assert found is not None
    assert found.tests[-1].name == "a_new_test"
    assert masking_cell(found).main == "1 of 7"
    assert masking_cell(found).detail == "a new test"


def test_the_column_is_the_last_one_and_says_none_some_or_missing(adaptive: Recorded) -> None:
    table = build_table(adaptive.runs)
    assert headings(table)[-1] == "Masked gradients"
    shown = {row.label: cells(table, row)[-1] for row in table.rows}
    assert tuple(shown) == LABELS
    assert [cell.main for cell in shown.values()] == ["no sign", "2 of 6", "missing"]
    assert [cell.detail for cell in shown.values()] == ["", "protocols disagree, zero gradients", ""]
    assert missing_cells(table) == [(LABELS[2], "Masked gradients")]


def test_without_any_verdict_there_is_no_trace_of_one(demo: Recorded) -> None:
    table = build_table(demo.runs)
    assert "Masked gradients" not in headings(table)
    assert missing_cells(table) == []
    assert not [name for name in table.to_polars().columns if name.startswith("masking")]
    assert "asked" not in to_markdown(table, title="t", flags=[], remedy=DEFAULT)


def test_the_verdict_of_a_run_that_failed_does_not_count(recorder: Recorder) -> None:
    parent = recorder.parent("failed-verdict")
    recorder.attack(parent, DENSE, {"clean": 150})
    recorder.attack(parent, noise(ratio="0.9"), {"clean": 150}, metrics=verdict(), status="FAILED")
    assert not build_table(read_back(recorder, "failed-verdict", {}).runs).has_masking


def test_the_csv_gives_the_verdict_back(adaptive: Recorded) -> None:
    frame = build_table(adaptive.runs).to_polars()
    again = pl.read_csv(io.StringIO(frame.write_csv()), schema=frame.schema)
    assert again.equals(frame)
    assert frame.columns[-2:] == ["masking", "masking_tests"]
    assert again["masking"].to_list() == [0, 2, None]
    assert again["masking_tests"].to_list() == ["", "protocols_disagree, zero_gradients", None]


def test_markdown_has_each_number_and_marks_what_is_raised(adaptive: Recorded) -> None:
    text = to_markdown(build_table(adaptive.runs), title="t", flags=[], remedy=DEFAULT)
    section = text[text.index(f"## {masking.TITLE}") :]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    assert [line.count("|") for line in lines] == [8] * 5
    dense, noisy, random = lines[2:]
    for numbers in NUMBERS.values():
        for name, value in numbers.items():
            assert f"{name.replace('_', ' ')} {percent(value)}" in noisy
    assert dense.count("raised") == random.count("raised") == 0
    assert re.findall(r"\*\*raised\*\*: (\w+)", noisy) == ["paper", "share"]
    assert random.count("missing") == 6


def test_the_words_say_what_a_verdict_is_worth(adaptive: Recorded) -> None:
    table = build_table(adaptive.runs)
    assert "reason for doubt and not a proof, and no raised test is no proof either" in masking.INTRODUCTION
    assert "Athalye et al. 2018" in masking.INTRODUCTION
    assert "Carlini et al. 2019" in masking.INTRODUCTION
    assert "radius 64/255" in masking.caption(table)


def test_tests_and_thresholds_are_those_of_the_verdict() -> None:
    assert (GAP, TOLERANCE) == (core.GAP, core.TOLERANCE)
    spoken = masking.caption(build_table(pl.DataFrame(schema=_schema())))
    assert "2 points between the protocols" in spoken
    assert "more than 1% left" in spoken


def _schema() -> dict[str, pl.DataType]:
    from analysis.columns import COLUMNS

    return {name: kind for name, (kind, _) in COLUMNS.items()}
