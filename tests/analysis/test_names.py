"""How things are called, written and ordered."""

from itertools import permutations
from typing import Any

import pytest

from analysis import names
from nenni_core.defenses import DEFENSES
from pipeline.defense_choice import DefenseChoice
from pipeline.experiment import ExperimentSet
from pipeline.keys import stage_keys
from pipeline.run_tags import stage_tags
from pipeline.runner import Plan

PROTOCOL = ["fgsm", "pgd20", "mifgsm", "pgd20_straight_through"]


def test_attacks_come_in_the_protocols_order_whatever_order_they_were_tracked_in() -> None:
    for order in permutations(PROTOCOL):
        assert names.attack_order(order) == PROTOCOL


def test_longer_attacks_come_later_and_unknown_ones_last() -> None:
    mixed = ["worst_case", "zoo", "pgd100", "apgd", "pgd20", "fgsm_straight_through", "pgd20"]
    assert names.attack_order(mixed) == [
        "pgd20",
        "pgd100",
        "fgsm_straight_through",
        "apgd",
        "zoo",
        "worst_case",
    ]


def test_protocols_and_grids_have_their_order() -> None:
    wanted = [
        *("fgsm", "pgd20", "mifgsm", "cw_l2", "deepfool", "autoattack_torchattacks"),
        *("pgd20_straight_through", "pgd10_eps8", "pgd100_eps8", "pgd10_eps12", "pgd100_eps12"),
        *("transfer", "apgd_ce", "apgd_dlr_targeted", "square", "autoattack_standard"),
        *("apgd_ce_eps4", "apgd_ce_eps16", "square_eps4"),  # after the protocol
        *("zoo", "pgd2_probe", "pgd20_unbounded_probe", "worst_case"),
    ]
    assert names.attack_order(reversed(wanted)) == wanted
    assert names.attack_order(sorted(wanted)) == wanted


def test_words_are_listed_as_in_a_sentence() -> None:
    assert [names.listed("abc"[:count]) for count in range(4)] == ["", "a", "a and b", "a, b and c"]


@pytest.mark.parametrize(
    ("column", "heading"),
    [
        ("clean", "Clean"),
        ("worst_case", "Worst case"),
        ("fgsm", "FGSM"),
        ("pgd20", "PGD-20"),
        ("mifgsm", "MIFGSM"),
        ("mifgsm5", "MIFGSM-5"),
        ("pgd20_straight_through", "PGD-20, straight-through"),
        ("square_5000", "square 5000"),
        ("pgd50_eps12", "PGD-50, 12/255"),
        ("pgd100_eps8_straight_through", "PGD-100, 8/255, straight-through"),
        ("pgd20_straight_through_eps16", "PGD-20, 16/255, straight-through"),
        ("cw_l2", "CW-l2"),
        ("autoattack_torchattacks", "AutoAttack (torchattacks)"),
        ("apgd_dlr_targeted", "APGD-DLR targeted"),
        ("masking", "Masked gradients"),
    ],
)
def test_headings(column: str, heading: str) -> None:
    assert names.column_name(column) == heading


def run(**columns):
    usual = {"model": "m", "dataset": "d", "defence": "noise_injection", "ratio": None, "pattern": None}
    return (
        usual | dict.fromkeys(("objective", "seed", "trained_by_title", *names.USUAL, *names.LATER)) | columns
    )


def test_rows_are_dense_then_ratios_then_patterns_ascending_and_clean_before_adversarial() -> None:
    wanted = [
        run(defence="dense"),
        run(ratio=0.1, objective="adversarial"),
        run(ratio=0.9, objective="clean"),
        run(ratio=0.9, objective="clean", randomize="bank"),
        run(ratio=0.9, objective="adversarial"),
        run(ratio=0.99, objective="clean"),
        run(pattern="1:8"),
        run(pattern="1:4"),
        run(pattern="2:8"),
        run(pattern="7:8"),
        run(layer_ratios="cheap"),
        run(layer_ratios="robust"),
    ]
    for start in range(len(wanted)):
        turned = wanted[start:] + wanted[:start]
        assert sorted(turned, key=names.variant_order) == wanted


def test_labels_name_what_departs_from_the_usual() -> None:
    usual = {"target": "non_essential", "randomize": "fixed", "selection": "top_k"}
    assert names.variant_name(run(ratio=0.9, objective="clean", **usual)) == "Ratio 0.9, clean"
    assert (
        names.variant_name(run(pattern="4:8", **usual | {"target": "essential"}))
        == "Pattern 4:8, target essential"
    )
    assert names.variant_name(run(layer_ratios="cheap", objective="clean", **usual)) == (
        "Layer ratios cheap, clean"
    )
    departing = run(ratio=0.5, score="signed", bits=8, projection_ratio=0.5)
    assert names.variant_name(departing) == "Ratio 0.5, score signed, bits 8, projection ratio 0.5"
    assert names.variant_name(run(defence="dense", seed=3), telling=["seed"]) == "Dense teacher, seed 3"


def test_labels_say_where_an_old_run_has_not_recorded_what_tells_it_from_another() -> None:
    telling = ["seed", "pretrain_epochs"]
    known = run(defence="dense", pretrain_epochs=20)
    assert names.variant_name(known, telling=telling) == "Dense teacher, pretrain epochs 20"
    assert (
        names.variant_name(run(defence="dense"), telling=telling)
        == "Dense teacher, pretrain epochs not recorded"
    )


@pytest.mark.parametrize(
    ("columns", "label"),
    [
        ({"trained_by": "adversarial", "trained_by_title": "Rice"}, "Dense teacher"),
        ({"trained_by": "trades-beta-1", "trained_by_title": "TRADES (Z), beta 1"}, "TRADES (Z), beta 1"),
        (
            {"trained_by": "awp-gamma-1e-05", "trained_by_title": "AWP (W), gamma 1e-05"},
            "AWP (W), gamma 1e-05",
        ),
        ({"trained_by": "awp-gamma-1e-05"}, "awp-gamma-1e-05"),
        ({"trained_by": "trades"}, "trades"),
    ],
)
def test_a_defence_is_called_as_its_run_says(columns: dict[str, str], label: str) -> None:
    assert names.variant_name(run(defence="dense", **columns)) == label
    on = "" if label == "Dense teacher" else f", on {label}"
    assert names.variant_name(run(ratio=0.9, objective="clean", **columns)) == f"Ratio 0.9, clean{on}"


@pytest.mark.parametrize(
    ("choice", "title"),
    [
        ("trades", "TRADES (Zhang et al., 2019)"),
        ({"kind": "trades", "beta": 6}, "TRADES (Zhang et al., 2019)"),
        ({"kind": "trades", "beta": 1}, "TRADES (Zhang et al., 2019), beta 1"),
        ({"kind": "awp", "gamma": 1e-5}, f"{DEFENSES['awp'].title}, gamma 1e-05"),
        (
            {"kind": "fat", "taus": [0, 2], "milestones": [0.5]},
            "FAT (Zhang et al., 2020), taus (0, 2), milestones (0.5)",
        ),
        (
            {"kind": "sparse", "sparsity": 0.8, "method": "surgery", "learning_rate": 0.1},
            "Sparse network (Guo et al., 2018), learning rate 0.1, sparsity 0.8, method surgery",
        ),
    ],
)
def test_the_title_of_a_choice_is_what_its_runs_record(choice: Any, title: str) -> None:
    assert DefenseChoice.model_validate(choice).title == title
    [experiment] = ExperimentSet.model_validate(
        {
            "prepare": {"dataset": "synthetic", "validation_images": 12},
            "pretrain": {"defense": choice, "epochs": 1},
            "distill": {},
            "finetune": {},
            "attack": {"attacks": {"fgsm": {"kind": "fgsm"}}},
        }
    ).experiments()
    keys = stage_keys(experiment, "data")
    tags = stage_tags("attack", Plan(experiment=experiment, keys=keys, data_fingerprint="data"))
    assert tags["trained_by_title"] == title


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.82646, "\u221282.6%"),
        (-0.0735, "+7.4%"),
        (0.0, "0.0%"),
        (-0.0001, "0.0%"),
        (1.0, "\u2212100.0%"),
        (None, ""),
    ],
)
def test_a_saving_has_a_minus_and_an_extra_cost_a_plus(value, text: str) -> None:
    assert names.reduction(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.4235e9, "1.42 G"),
        (14.235e9, "14.2 G"),
        (142.35e9, "142 G"),
        (999.6e6, "1.00 G"),
        (9.996e6, "10.0 M"),
        (2.6e12, "2.60 T"),
        (1234.0, "1.23 k"),
        (12.0, "12"),
        (None, ""),
    ],
)
def test_large_counts_have_three_digits(value, text: str) -> None:
    assert names.magnitude(value) == text


def test_points_are_signed_unless_zero_when_rounded() -> None:
    assert names.points(0.1234) == "+12.3"
    assert names.points(-0.1234) == "\u221212.3"
    assert names.points(-0.0001) == "0.0"
    assert names.points(-0.1234, signed=False) == "12.3"


@pytest.mark.parametrize(
    ("value", "text"), [(None, ""), (8.24, "8.2 s"), (99.9, "99.9 s"), (720.0, "12 min"), (12240.0, "3.4 h")]
)
def test_durations(value: float | None, text: str) -> None:
    assert names.duration(value) == text


def test_quarters_of_a_point_are_all_rounded_alike() -> None:
    """Counts of 400 images, rounded away from zero by whole numbers: tenths of a percent."""
    for count in range(1, 401):
        tenths = (2 * 1000 * count + 400) // 800
        text = f"{tenths // 10}.{tenths % 10}"
        assert names.percent(count / 400) == text
        assert names.points(-count / 400) == names.MINUS + text
