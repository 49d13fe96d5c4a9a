"""The paper's tables from recorded runs: golden numbers by hand, and what is never mixed silently."""

from math import sqrt

import pytest
from paper_runs import ATTACKS, DENSE, IMAGES, attack, frame, noise, prepared
from scipy import stats

from analysis.measurement import Measurement
from analysis.paper_tables import MethodRow, PaperTable, build_paper_tables
from analysis.tables.robustness import WORST_CASE

RSE = {"defence": "dense", "trained_by": "rse_add"}


def table1(*rows, expected=(), attacks=()) -> PaperTable:
    [found] = build_paper_tables(frame(prepared(), *rows), name="table1", expected=expected, attacks=attacks)
    return found


def row(table: PaperTable, label: str) -> MethodRow:
    [found] = [row for row in table.rows if row.label.startswith(label)]
    return found


def number(table: PaperTable, label: str, column: str) -> Measurement:
    found = row(table, label).entries[column].found
    assert isinstance(found, Measurement), found
    return found


def test_two_seeds_by_hand() -> None:
    table = table1(
        attack(DENSE, {"pgd20": 5200}, seed=0),
        attack(DENSE, {"pgd20": 5300}, seed=1),
        attack(noise(0.9), {"pgd20": 6000}, seed=0),
        attack(noise(0.9), {"pgd20": 6300}, seed=1),
    )
    dense = number(table, "Overfitting", "pgd20")
    assert dense.value == pytest.approx(0.525)
    assert dense.spread.deviation == pytest.approx(0.01 / sqrt(2))
    # t(1) is tan(0.475 pi) = 12.706; the standard error is 0.005
    assert dense.interval == pytest.approx((0.525 - 12.7062 * 0.005, 0.525 + 12.7062 * 0.005), abs=1e-5)
    wilson = stats.binomtest(5250, IMAGES).proportion_ci(0.95, "wilson")
    assert dense.image_interval == pytest.approx((wilson.low, wilson.high))
    found = row(table, "Noise Injection Ratio 90%")
    assert found.improvements is not None
    gain = found.improvements["pgd20"]
    # 8 and 10 points, so 9 with a standard error of 1
    assert gain.ours is not None
    assert gain.ours.value == pytest.approx(0.09)
    assert gain.ours.low == pytest.approx(0.09 - 12.7062 * 0.01, abs=1e-5)
    assert gain.printed == pytest.approx(0.1474)


def test_one_seed_has_the_wilson_interval() -> None:
    dense = number(table1(attack(DENSE, {"pgd20": 5253})), "Overfitting", "pgd20")
    wilson = stats.binomtest(5253, IMAGES).proportion_ci(0.95, "wilson")
    assert dense.interval == dense.image_interval == pytest.approx((wilson.low, wilson.high))
    assert dense.spread.deviation is None


def test_ranks_are_of_robust_columns_and_cost() -> None:
    table = table1(
        attack(DENSE, {"clean": 9000, "pgd20": 5000, WORST_CASE: 4000}),
        attack(RSE, {"clean": 8000, "pgd20": 5500, WORST_CASE: 3000}),
        attack(noise(0.9), {"clean": 7000, "pgd20": 6000, WORST_CASE: 2000}),
        attack(noise(0.99), {"clean": 6000, "pgd20": 5500, WORST_CASE: 1000}),
    )
    ranks = {
        column: [each.entries[column].rank for each in table.rows if each.source.runs]
        for column in ("clean", "pgd20", WORST_CASE)
    }
    assert ranks == {"clean": [0, 0, 0, 0], "pgd20": [0, 2, 1, 2], WORST_CASE: [1, 2, 0, 0]}
    assert [each.cost_rank for each in table.rows if each.source.runs] == [0, 0, 0, 1]


@pytest.mark.parametrize(
    ("other", "what"),
    [
        ({"data_fingerprint": "e" * 64}, "test data"),
        ({"images": 400}, "numbers of images"),
        ({"params": {"attacks.pgd20.steps": "10"}}, "attack settings"),
    ],
)
def test_seeds_that_do_not_belong_together_give_no_number(other, what: str) -> None:
    table = table1(attack(DENSE, {"pgd20": 399}), attack(DENSE, {"pgd20": 300}, seed=1, **other))
    assert row(table, "Overfitting").entries["pgd20"].found == f"mixed: different {what}"


def test_rows_that_do_not_belong_together_are_neither_ranked_nor_subtracted() -> None:
    table = table1(
        attack(DENSE, {"pgd20": 300}, images=400),
        attack(noise(0.9), {"pgd20": 6000}),
        attack(noise(0.99), {"pgd20": 6500}),
    )
    assert {each.entries["pgd20"].rank for each in table.rows} == {0}
    improvements = row(table, "Noise Injection Ratio 90%").improvements
    assert improvements is not None
    assert improvements["pgd20"].ours is None


def test_networks_of_several_trainings_are_not_averaged() -> None:
    table = table1(
        attack(DENSE, {"pgd20": 5000}), attack(DENSE, {"pgd20": 6000}, seed=1, pretrain_epochs=100)
    )
    assert row(table, "Overfitting").entries["pgd20"].found == "mixed: 100 and 200 epochs of training"


def test_what_is_missing_is_told_from_what_was_not_asked_for() -> None:
    asked = {"model": "resnet18", "dataset": "cifar10", "seed": 0, "trained_by": "rpf", "defence": "dense"}
    few = attack(DENSE, {"pgd20": 5000})
    for name in [name for name in few if name.endswith("/cw_l2")]:
        del few[name]
    running = attack(noise(0.9), {}, status="RUNNING")
    table = table1(few, running, expected=[asked], attacks=[name for name in ATTACKS if name != "cw_l2"])
    assert row(table, "Overfitting").entries["cw_l2"].found == "not attacked"
    assert row(table, "Random Projection").entries["pgd20"].found == "missing"
    assert row(table, "Noise Injection Ratio 90%").entries["pgd20"].found == "missing (running)"
    with_cw = table1(few, expected=[asked], attacks=list(ATTACKS))
    assert row(with_cw, "Overfitting").entries["cw_l2"].found == "missing"


def test_the_newest_run_of_a_seed_counts() -> None:
    table = table1(attack(DENSE, {"pgd20": 6000}, start_ms=20), attack(DENSE, {"pgd20": 5000}, start_ms=10))
    assert number(table, "Overfitting", "pgd20").value == 0.6


def test_unusual_networks_are_not_the_papers() -> None:
    unusual = [
        noise(0.9) | {"randomize": "bank"},
        noise(0.9) | {"target": "essential"},
        noise(0.9) | {"bits": 3},
        noise(0.9) | {"trained_by": "trades"},
        noise(0.9) | {"ensemble": 8},
    ]
    table = table1(attack(DENSE, {}), *(attack(network, {}) for network in unusual))
    assert not row(table, "Noise Injection Ratio 90%").source.runs


def test_each_kind_of_fine_tuning_is_a_row() -> None:
    table = table1(attack(noise(0.9, "adversarial"), {"pgd20": 1}), attack(noise(0.9), {"pgd20": 2}))
    labels = [each.label for each in table.rows if each.method.is_noise]
    assert labels[:2] == ["Noise Injection Ratio 90%, clean", "Noise Injection Ratio 90%, adversarial"]
    assert table.objectives == ("clean", "adversarial")


def test_a_set_of_another_name_gives_the_tables_that_it_has_every_row_of() -> None:
    rows = [
        attack({"defence": "dense", "trained_by": name}, {})
        for name in ("adversarial", "rse_add", "rse_multiply", "rpf")
    ]
    without = frame(prepared(), *rows, attack(noise(0.9), {}))
    assert build_paper_tables(without, name="demo") == []
    whole = frame(prepared(), *rows, attack(noise(0.9), {}), attack(noise(0.99), {}))
    tables = build_paper_tables(whole, name="demo")
    assert [(table.layout.number, table.model) for table in tables] == [(1, "resnet18"), (2, "resnet18")]
    digits = frame(*(attack(DENSE | one, {}, dataset="digits") for one in ({}, noise(0.9))))
    assert build_paper_tables(digits, name="table1") == []


def test_the_papers_network_goes_before_others() -> None:
    both = frame(attack(DENSE, {}), attack(DENSE, {}, model="small_resnet"))
    [found] = build_paper_tables(both, name="table1")
    assert found.name == "table1"
    [small] = build_paper_tables(frame(attack(DENSE, {}, model="small_resnet")), name="small-table1")
    assert small.name == "table1-small_resnet"


def test_table_4_has_no_dense_row_but_a_teacher() -> None:
    runs = frame(prepared(), attack(DENSE, {}), attack(noise(0.9), {}))
    [found] = build_paper_tables(runs, name="table4")
    assert all(each.method.is_noise for each in found.rows)
    assert found.teachers["cifar10"].seeds == (0,)
    ninety = next(each for each in found.rows if each.method.ratio == 0.9)
    assert ninety.printed_cost == pytest.approx(0.452 / 2.6)
