"""Attacks of who knows the defence: their own table, what the worst case counts, what is not defined."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded_runs import ADAPTIVE, DENSE, PROBES, PROTOCOL, Recorded, Recorder, flat, noise, read_back

from analysis import names, protocol
from analysis.notes import flags, missing_cells
from analysis.remedy import DEFAULT
from analysis.tables import adaptive as steps
from analysis.tables.markdown import to_markdown
from analysis.tables.robustness import RobustnessTable, build_table
from analysis.tables.writing import caption, cells, headings
from nenni_core.attacks import ATTACKS, adaptive_protocol, paper_protocol, pgd_grid
from nenni_core.evaluation import masking as core
from pipeline.config import Distill

MAIN = ("clean", "fgsm", "pgd20", "mifgsm", "pgd20_straight_through", "worst_case")


def table_of(recorder: Recorder, name: str, attacks: dict[str, dict[str, str]]) -> RobustnessTable:
    """A dense network under the attacks, which all leave as much."""
    columns = dict.fromkeys(("clean", *attacks, "worst_case"), 100)
    recorder.attack(recorder.parent(name), DENSE, columns, params=flat(attacks))
    return build_table(read_back(recorder, name, {}).runs)


def test_kinds_are_those_that_there_are() -> None:
    assert set(protocol.ADAPTIVE) <= set(ATTACKS)
    assert set(protocol.MINIMAL_NORM) == {name for name, kind in ATTACKS.items() if kind.norm is None}
    assert set(protocol.DETERMINISTIC_ONLY) == {
        name for name, kind in ATTACKS.items() if kind.deterministic_only
    }
    assert {spec.kind for spec in adaptive_protocol()} < set(protocol.ADAPTIVE)
    assert protocol.PROBES == core.PROBES
    assert protocol.UNBOUNDED == core.UNBOUNDED
    choices = get_args(Distill.model_fields["randomize"].annotation)
    assert set(choices) - set(protocol.RANDOM) == {"fixed"}


def test_the_main_table_has_what_is_not_adaptive_and_no_probe(adaptive: Recorded) -> None:
    table = build_table(adaptive.runs)
    assert table.main_columns == MAIN
    assert headings(table)[1:7] == [names.column_name(column) for column in MAIN]
    for row in table.rows:
        assert len(cells(table, row)) == len(headings(table)) - 1
        assert len(steps.cells(table, row)) == len(steps.headings(table)) - 1
    assert set(PROBES) <= set(table.columns)  # and so in the CSV
    assert table.to_polars()["pgd20_unbounded_probe_correct"].to_list() == [0, 11, None]


def test_the_steps_are_in_their_order_and_end_with_the_worst_case(adaptive: Recorded) -> None:
    table = build_table(adaptive.runs)
    assert steps.headings(table) == [
        "Network",
        "Transfer",
        "APGD-CE",
        "APGD-DLR targeted",
        "Square",
        "AutoAttack (standard)",
        "Worst case",
    ]
    text = to_markdown(table, title="t", flags=[], remedy=DEFAULT)
    place = text.index(f"## {steps.TITLE}")
    assert "APGD" not in text[:place].partition("| Network |")[2]
    assert "PGD-2 (probe)" not in text


def test_the_kind_tells_an_adaptive_attack_whatever_its_name(recorder: Recorder) -> None:
    attacks = {"asks_much": {"kind": "square"}, "by_gradient": {"kind": "apgd_ce"}, "square": {"kind": "pgd"}}
    table = table_of(recorder, "named-otherwise", attacks)
    assert table.adaptive_columns == ("by_gradient", "asks_much")
    assert table.main_columns == ("clean", "square", "worst_case")


def test_the_name_tells_it_where_no_kind_was_tracked(recorder: Recorder) -> None:
    table = table_of(recorder, "kindless", {name: {} for name in ("square", "transfer", "cw_l2", "pgd20")})
    assert table.adaptive_columns == ("transfer", "square")
    assert table.counts("pgd20")
    assert not table.counts("cw_l2")
    assert not table.counts("clean")


@given(st.permutations(("clean", "pgd20", *ADAPTIVE, *PROBES, "worst_case")))
def test_every_column_is_in_one_table_and_only_probes_in_none(columns: list[str]) -> None:
    table = RobustnessTable(columns=tuple(columns), rows=())
    shown = [*table.main_columns, *table.adaptive_columns]
    assert sorted([*shown, *PROBES]) == sorted(columns)
    assert table.adaptive_columns == tuple(ADAPTIVE)


def test_without_adaptive_attacks_there_is_no_second_table(demo: Recorded) -> None:
    table = build_table(demo.runs)
    assert steps.columns(table) == ()
    assert steps.TITLE not in to_markdown(table, title="t", flags=[], remedy=DEFAULT)
    assert table.main_columns == table.columns


def test_the_caption_says_who_is_left_to_whom(adaptive: Recorded) -> None:
    said = steps.caption(build_table(adaptive.runs))
    assert "APGD-DLR targeted is run only on the images that APGD-CE has left standing" in said
    assert "Square is run only on the images that APGD-CE and APGD-DLR targeted have left standing" in said
    assert "fall from left to right" in said
    assert "random networks: on all images" in said
    assert "(straight-through): APGD-CE, APGD-DLR targeted and AutoAttack (standard)." in said


def test_attacks_on_all_images_are_not_said_to_fall(recorder: Recorder) -> None:
    table = table_of(recorder, "all-images", {"square": {"kind": "square"}, "transfer": {"kind": "transfer"}})
    assert "fall" not in steps.caption(table)


def test_the_worst_case_is_that_of_the_common_radius(adaptive: Recorded) -> None:
    said = caption(build_table(adaptive.runs))
    assert "right under every attack of the protocols at their common radius (8/255), Transfer," in said
    assert "leaves out" not in said


def test_what_the_worst_case_leaves_out_is_named(recorder: Recorder) -> None:
    eps = {"kind": "pgd", "eps": str(8 / 255)}
    apart = {"in_worst_case": "false"}
    attacks = {
        "pgd20": eps,
        "cw_l2": {"kind": "cw"},
        "deepfool": {"kind": "deepfool"},
        "pgd50_eps8": eps | apart,
    }
    said = caption(table_of(recorder, "left-out-of-it", attacks))
    assert "(8/255)" in said
    assert "no radius (CW-l2 and DeepFool)" in said
    assert "set apart from the protocols (PGD-50, 8/255)" in said
    grid = {spec.name: {"kind": "pgd", "eps": str(spec.eps)} | apart for spec in pgd_grid()}
    table = table_of(recorder, "whole-grid", {"pgd20": eps} | grid)
    assert "set apart from the protocols (the grid of radii and steps)" in caption(table)
    assert len(table.main_columns) == 3 + len(grid)


def test_several_radii_in_the_worst_case_are_not_called_common(recorder: Recorder) -> None:
    attacks = {name: {"kind": "pgd", "eps": str(int(name[3:]) / 255)} for name in ("pgd8", "pgd12")}
    said = caption(table_of(recorder, "two-radii", attacks))
    assert "at the radii 12/255 and 8/255" in said
    assert "common" not in said


def test_what_is_not_defined_is_not_missing(adaptive: Recorded) -> None:
    table = build_table(adaptive.runs)
    random = table.rows[2]
    assert random.is_random
    assert not table.rows[0].is_random
    shown = dict(zip(steps.columns(table), steps.cells(table, random), strict=True))
    assert shown["autoattack_standard"].main == "not defined"
    assert shown["square"].main == "50.1"
    assert "AutoAttack (standard)" not in {column for _, column in missing_cells(table)}
    assert "the worst case of a random one is without it" in caption(table)


@pytest.mark.parametrize("randomize", ["fixed", "bank", "stochastic_rounding"])
def test_only_random_networks_may_lack_it(recorder: Recorder, randomize: str) -> None:
    name = f"lacks-{randomize}"
    tags = noise(ratio="0.9") | {"randomize": randomize}
    recorder.attack(recorder.parent(name), tags, {"clean": 100}, params=PROTOCOL | flat(ADAPTIVE))
    table = build_table(read_back(recorder, name, {}).runs, attacks=["autoattack_standard"])
    gaps = [(row.label, column) for row, column in table.missing if not row.is_dense]
    assert bool(gaps) == (randomize == "fixed")


def test_means_over_draws_are_neither_rounded_nor_called_counts(adaptive: Recorded) -> None:
    table = build_table(adaptive.runs)
    frame = table.to_polars()
    assert frame["pgd20_accuracy"].to_list() == pytest.approx([0.5, 0.7, 0.5012])
    assert frame["pgd20_correct"].to_list() == [100, 140, None]
    assert flags(table, adaptive.runs, adaptive.parent) == []


def test_every_attack_of_the_protocols_has_a_title() -> None:
    specs = (*paper_protocol(), *adaptive_protocol(), *core.masking_probes(), *pgd_grid())
    for spec in specs:
        assert names.column_name(spec.name) != spec.name.replace("_", " "), spec.name
