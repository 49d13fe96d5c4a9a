"""The printed tables 1 to 4."""

import pytest

from analysis import paper_layout
from analysis.paper_layout import BITOPS, SETTINGS, TABLES, layout


def test_the_tables_have_the_papers_form() -> None:
    first, second, third, fourth = (layout(number) for number in TABLES)
    attacks = ("pgd20", "fgsm", "mifgsm", "cw_l2", "autoattack_torchattacks")
    assert first.columns == ("clean", *attacks, BITOPS)
    assert second.columns == ("clean", *(name for name in attacks if name != "cw_l2"), BITOPS)
    assert third.columns == ("pgd20", "autoattack_torchattacks")
    assert fourth.columns == ("clean", "pgd20", BITOPS)
    assert [table.network for table in (first, second, third, fourth)] == [
        "ResNet-18",
        "WideResNet-34-10",
        "WideResNet-34-10",
        "ResNet-18",
    ]
    assert first.datasets == third.datasets == fourth.datasets == ("cifar10", "cifar100")
    assert second.datasets == ("cifar10",)
    assert [len(table.methods) for table in (first, second, third, fourth)] == [6, 6, 8, 11]
    assert [table.has_improvements for table in (first, second, third, fourth)] == [True, True, False, False]


def test_values_by_hand() -> None:
    first, third, fourth = layout(1), layout(3), layout(4)
    baseline, noise = first.methods[0], first.methods[-1]
    assert first.printed["cifar10", baseline, "pgd20"] == pytest.approx(0.5253)
    assert (noise.ratio, noise.is_noise) == (0.99, True)
    assert first.printed["cifar100", noise, "autoattack_torchattacks"] == pytest.approx(0.3906)
    assert first.printed["cifar10", noise, BITOPS] == 2.18e8
    trades = next(method for method in third.methods if method.trained_by == "trades")
    assert third.printed["cifar10", trades, "pgd20"] == pytest.approx(0.5661)
    assert ("cifar100", trades, "pgd20") not in third.printed  # a dash
    pattern = next(method for method in fourth.methods if method.pattern == "6:8")
    assert fourth.printed["cifar10", pattern, "pgd20"] == pytest.approx(0.5807)


def test_only_adversarial_training_is_what_improvements_are_counted_from() -> None:
    for number in TABLES:
        baselines = [method for method in layout(number).methods if method.is_baseline]
        assert len(baselines) == (number != 4)


def test_the_papers_grids_attack_with_the_papers_settings() -> None:
    from fractions import Fraction

    from pipeline.grids import load_grid
    from pipeline.run_tags import flatten

    for number in TABLES:
        attacks = load_grid(f"table{number}").cells[0].experiment.attack.model_dump(mode="json")["attacks"]
        for column in layout(number).columns:
            for field, value in SETTINGS.get(column, {}).items():
                found = flatten(attacks[column])[field]
                assert field == "kind" or float(Fraction(found)) == float(Fraction(value)), (column, field)


def test_columns_are_called_as_they_are_printed() -> None:
    titles = [paper_layout.column_title(column) for column in layout(1).columns]
    assert titles == ["Clean", "PGD-20", "FGSM", "MIFGSM", "CW-l2", "AutoAttack", "BitOPs"]
