"""The words follow from the numbers."""

from typing import Any

import pytest

from analysis.comparison import Share, difference
from analysis.summary import Summary, attack_pair, summarise
from analysis.tables.robustness import IDENTITY, PROVENANCE, RobustnessTable, Row

NOBODY = dict.fromkeys(IDENTITY)


def row(
    label: str, counts: dict[str, int | None], *, images: int = 1000, cost: float = 1.0, **identity: Any
) -> Row:
    shares = {name: None if n is None else Share(correct=n, images=images) for name, n in counts.items()}
    return Row(
        label=label,
        identity=NOBODY | {"model": "m", "dataset": "d", "seed": 0, "defence": "noise_injection"} | identity,
        cells=shares,
        bitops_dense=1e6,
        bitops_nominal=cost * 1e6,
        bitops_measured=None,
        printed=None,
        tracked=dict.fromkeys((*PROVENANCE, "params")) | {"run_id": label},
    )


def summary(*noisy: Row, dense: tuple[int, int, int] = (800, 500, 500)) -> Summary:
    columns = ("clean", "pgd20", "pgd20_straight_through")
    teacher = row("Dense teacher", dict(zip(columns, dense, strict=True)), defence="dense")
    return summarise(RobustnessTable(columns=columns, rows=(teacher, *noisy)))


def noisy(clean: int, blocked: int | None, straight: int | None, **more: Any) -> Row:
    counts = {"clean": clean, "pgd20": blocked, "pgd20_straight_through": straight}
    return row("Ratio 0.9, clean", counts, **({"ratio": 0.9, "cost": 0.174} | more))


def test_a_gain_that_only_blocked_gradients_show() -> None:
    found = summary(noisy(790, 650, 350))
    assert found.headline == (
        "The network with noise costs 17.4% of the dense BitOPs. "
        "Under PGD-20 with blocked gradients it is clearly above the dense teacher. "
        "Under PGD-20 with straight-through gradients it is clearly below the dense teacher. "
        "The gain is not there for an attacker who differentiates the low-precision path."
    )
    [(label, text)] = found.chosen
    assert label == "Ratio 0.9, clean"
    assert text.startswith(
        "At ratio 0.9 the network costs 17.4% of the dense BitOPs. Clean accuracy shows no clear"
    )
    # (800 - 790) / 1000 of clean; both intervals overlap widely
    assert (
        "Clean accuracy shows no clear difference (\u22121.0 points, 95% interval \u22124.5 to +2.5)" in text
    )
    assert "PGD-20 with blocked gradients rises by 15.0 points (95% interval +10.7 to +19.2)" in text
    assert (
        "PGD-20 with straight-through gradients falls by 15.0 points (95% interval \u221219.2 to \u221210.7)"
        in text
    )
    assert "The gain is not there for an attacker who differentiates the low-precision path: against" in text
    assert "Blocked gradients make it look 30.0 points more robust than straight-through ones" in text


def test_layers_with_ratios_of_their_own_are_called_by_their_name() -> None:
    by_layer = noisy(790, 650, 350, ratio=None, layer_ratios="cheap")
    found = summary(by_layer)
    [(_, text)] = [*found.chosen, *found.others]
    assert text.startswith("With the layer ratios cheap the network costs 17.4% of the dense BitOPs.")


@pytest.mark.parametrize(
    ("blocked", "straight", "verdict", "overall"),
    [
        (650, 640, "The gain is there for an attacker", "The gain is also there for"),
        (650, 505, "The gain is not clearly there for an attacker", "not clearly there"),
        (505, 495, "Neither attacker tells it clearly from the dense teacher.", ""),
        (505, 640, "A gain shows only against", ""),
        (505, 350, "There is no clear gain to begin with, and a loss against", ""),
        (350, 495, "There is a loss with blocked gradients and nothing clear against", ""),
        (350, 340, "Both attackers find it weaker than the dense teacher.", ""),
    ],
)  # fmt: skip
def test_verdicts(blocked: int, straight: int, verdict: str, overall: str) -> None:
    found = summary(noisy(790, blocked, straight))
    assert verdict in found.chosen[0][1]
    assert overall in found.headline
    assert ("gain is" in found.headline) == bool(overall)


def against_adaptive(counts: tuple[int, int, int, int | None]) -> Summary:
    """The words on a network with `counts` of 1000: clean, blocked, straight-through, in the worst case."""
    columns = ("clean", "pgd20", "pgd20_straight_through", "apgd_ce", "worst_case")
    teacher = row(
        "Dense teacher", dict(zip(columns, (800, 500, 490, 480, 480), strict=True)), defence="dense"
    )
    *others, worst = counts
    found = dict(zip(columns, (*others, worst, worst), strict=True))
    network = row("Ratio 0.9, clean", found, ratio=0.9, cost=0.174)
    return summarise(RobustnessTable(columns=columns, rows=(teacher, network)))


def test_the_worst_case_decides_where_there_are_adaptive_attacks() -> None:
    """Straight-through PGD alone would say that the gain is there."""
    found = against_adaptive((790, 650, 640, 300))
    assert found.headline == (
        "The network with noise costs 17.4% of the dense BitOPs. "
        "Under PGD-20 with blocked gradients it is clearly above the dense teacher. "
        "In the worst case, which includes the adaptive attacks, it is clearly below the dense teacher. "
        "The gain is not there for an attacker who knows the defence."
    )
    [(_, text)] = found.chosen
    assert "Accuracy in the worst case falls by 18.0 points" in text
    assert "The gain is not there for an attacker who knows the defence: against that one" in text
    assert "PGD-20 with blocked gradients alone leaves it 35.0 points above its worst case" in text
    assert "straight-through" not in text


@pytest.mark.parametrize(
    ("worst", "said"),
    [
        (640, "The gain is also there for an attacker who knows the defence."),
        (485, "The gain is not clearly there for an attacker who knows the defence."),
    ],
)
def test_what_is_left_against_who_knows_the_defence(worst: int, said: str) -> None:
    assert against_adaptive((790, 650, 640, worst)).headline.endswith(said)


def test_a_missing_worst_case_is_not_replaced_by_another_attack() -> None:
    found = against_adaptive((790, 650, 640, None))
    assert "Accuracy in the worst case is missing." in found.chosen[0][1]
    assert " gain" not in found.headline + found.chosen[0][1]


def test_few_images_leave_no_clear_difference() -> None:
    """The same shares as in the first test, of 20 images each."""
    columns = ("clean", "pgd20", "pgd20_straight_through")
    teacher = row("Dense", dict(zip(columns, (16, 10, 10), strict=True)), images=20, defence="dense")
    table = RobustnessTable(columns=columns, rows=(teacher, noisy(16, 13, 7, images=20)))
    text = summarise(table).chosen[0][1]
    assert text.count("shows no clear difference") == 3
    assert "gain is" not in text


def test_a_clear_difference_never_has_an_interval_that_looks_like_zero() -> None:
    # 570 against 525 of 1000: the interval begins 0.13 points above zero
    change = difference(Share(correct=570, images=1000), Share(correct=525, images=1000))
    assert 0.001 < change.low < 0.002
    # 545 against 501 of 1000: 0.02 points
    change = difference(Share(correct=545, images=1000), Share(correct=501, images=1000))
    assert 0 < change.low < 0.0005
    text = summary(noisy(790, 545, 500), dense=(800, 501, 500)).chosen[0][1]
    assert "rises by 4.4 points (95% interval +0.02 to +8.75)" in text


def test_several_networks_are_counted() -> None:
    rows = [noisy(790, 650, 350), noisy(790, 650, 640, cost=0.084), noisy(790, 505, 500, cost=0.57)]
    headline = summary(*rows).headline
    assert "The 3 networks with noise cost 8.4% to 57.0% of the dense BitOPs." in headline
    assert (
        "blocked gradients 2 of 3 are clearly above the dense teacher and "
        "1 of 3 is not clearly different from it." in headline
    )
    assert (
        "straight-through gradients 1 of 3 is clearly above the dense teacher, 1 of 3 is clearly below it "
        "and 1 of 3 is not clearly different from it." in headline
    )
    assert "Of the 2 gains 1 is there for an attacker who differentiates the low-precision path." in headline
    both = summary(noisy(790, 650, 350), noisy(790, 650, 340)).headline
    assert "all 2 are clearly above the dense teacher." in both
    assert "Of the 2 gains none is there for" in both
    unclear = summary(noisy(790, 650, 350), noisy(790, 650, 500)).headline
    assert "Of the 2 gains none is clearly there for" in unclear
    kept = summary(noisy(790, 650, 640), noisy(790, 650, 640)).headline
    assert "All 2 gains are also there for" in kept
    assert " gain" not in summary(noisy(790, 650, None)).headline


def test_missing_numbers_are_not_compared() -> None:
    text = summary(noisy(790, None, 350)).chosen[0][1]
    assert "Accuracy under PGD-20 with blocked gradients is missing." in text
    assert " gain" not in text


def test_no_teacher_and_no_network() -> None:
    alone = RobustnessTable(
        columns=("clean", "pgd20"), rows=(row("Ratio 0.9", {"clean": 1, "pgd20": 1}, ratio=0.9),)
    )
    assert "has no result to compare it with" in summarise(alone).chosen[0][1]
    assert summary().headline == "No network with noise has a result yet."
    assert summary().chosen == summary().others == ()


def test_the_paper_s_setting_comes_first() -> None:
    rows = [
        noisy(790, 650, 350, cost=0.57, ratio=0.5),
        noisy(790, 650, 350),
        noisy(790, 600, 550, objective="adversarial"),
        noisy(790, 650, 350, cost=0.084, ratio=0.99),
    ]
    named = [Row(**{**vars(one), "label": name}) for one, name in zip(rows, "abcd", strict=True)]
    found = summary(*named)
    assert [label for label, _ in found.chosen] == ["b", "c"]
    assert [label for label, _ in found.others] == ["a", "d"]
    assert found.others[0][1].startswith("At ratio 0.5 the network costs 57.0%")


def test_other_data_is_not_compared() -> None:
    network = noisy(790, 650, 350)
    elsewhere = Row(**{**vars(network), "tracked": {**network.tracked, "data_fingerprint": "other"}})
    found = summary(elsewhere)
    assert "measured on other data: not compared" in found.chosen[0][1]
    assert "above" not in found.headline


@pytest.mark.parametrize(
    ("columns", "pair"),
    [
        (("clean", "pgd20", "pgd20_straight_through"), ("pgd20", "pgd20_straight_through")),
        (("clean", "pgd10", "pgd100", "pgd100_straight_through"), ("pgd100", "pgd100_straight_through")),
        (("clean", "pgd10", "pgd100"), ("pgd100", None)),
        (("clean", "pgd10_straight_through"), (None, "pgd10_straight_through")),
        (("clean", "fgsm"), (None, None)),
        (("clean", "pgd20", "worst_case"), ("pgd20", None)),
        (("clean", "pgd20", "pgd20_straight_through", "apgd_ce", "worst_case"), ("pgd20", "worst_case")),
        (("clean", "pgd20", "pgd20_straight_through", "apgd_ce"), ("pgd20", "pgd20_straight_through")),
        (("clean", "pgd2_probe", "pgd10_eps12"), (None, None)),
    ],
)
def test_the_pair_of_attackers(columns: tuple[str, ...], pair: tuple[str | None, str | None]) -> None:
    assert attack_pair(RobustnessTable(columns=columns, rows=())) == pair


def test_the_best_of_several_defences_is_named() -> None:
    assert "approximate nothing" not in summary(noisy(800, 700, 200)).headline
    columns = {"clean": 800, "pgd20": 510, "pgd20_straight_through": 540}
    other = row("TRADES (Zhang et al., 2019)", columns, defence="dense", trained_by="trades")
    unknown = row("FAT (Zhang et al., 2020)", dict.fromkeys(columns), defence="dense", trained_by="fat")
    assert summary(noisy(800, 700, 200), other, unknown).headline.endswith(
        "the best of 2 networks that approximate nothing is TRADES (Zhang et al., 2019) with 54.0%, "
        "and the best that does Ratio 0.9, clean with 20.0%."
    )


def test_an_ensemble_is_no_network_of_its_own() -> None:
    columns = {"clean": 800, "pgd20": 510, "pgd20_straight_through": 540}
    better = columns | {"pgd20_straight_through": 700}
    other = row("RSE", columns, defence="dense", trained_by="rse", ensemble=1)
    together = row("RSE, ensemble of 10", better, defence="dense", trained_by="rse", ensemble=10)
    noisy_together = noisy(800, 700, 600, ensemble=10)
    assert summary(noisy(800, 700, 200), noisy_together, other, together).headline.endswith(
        "the best of 2 networks that approximate nothing is RSE with 54.0%, "
        "and the best that does Ratio 0.9, clean with 20.0%."
    )
    assert "approximate nothing" not in summary(noisy(800, 700, 200), together).headline


def test_of_very_many_networks_the_first_are_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {"clean": 900, "pgd20": 500, "pgd20_straight_through": 400}
    networks = [row(f"Ratio 0.{n}", counts, cost=0.1 * n, ratio=0.1 * n) for n in (1, 2, 3)]
    whole = summary(*networks)
    assert whole.left_out == 0
    assert (len(whole.chosen), len(whole.others)) == (1, 2)
    monkeypatch.setattr("analysis.summary.MOST_TOLD", 1)
    some = summary(*networks)
    assert some.headline == whole.headline
    assert (some.chosen, some.others, some.left_out) == (whole.chosen, whole.others[:1], 1)
