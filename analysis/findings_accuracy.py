"""Claims on accuracy and robustness, and the evidence for and against them."""

from collections.abc import Callable, Iterator, Sequence

import polars as pl

from analysis import sparsity
from analysis.comparison import Difference
from analysis.figures.accuracy_over_ratio import ratio_curves
from analysis.figures.pgd_over_radius import gain_column, grids, pgd_grid
from analysis.figures.printed import CLEAN_FALLS_AT, ESSENTIAL_FALLS_AT, FIGURE3_GAINS, ROBUST_RISES_AT
from analysis.findings import Claim, Evidence, Tracked, compare, falls, kept_within, rises
from analysis.masking import TESTS, read_verdict
from analysis.names import column_name, listed, points
from analysis.networks import CLEAN, Network, teacher_of
from analysis.pairing import INDEPENDENT, Comparison
from analysis.tables.robustness import WORST_CASE, build_table

PAPER_ATTACKS = ("pgd20", "fgsm", "mifgsm")
AUTOATTACK = "autoattack_torchattacks"
MARGIN = 0.02
"""What the paper itself calls only a small loss of clean accuracy (2 points at 99% noise)."""
HIGH = 0.9


def _noisy(tracked: Tracked) -> Iterator[tuple[Network, Network]]:
    """Networks with noise in non-essential neurons, one pass, on an adversarial teacher, with that."""
    every = tracked.networks
    for network in every:
        dense = None if network.is_dense else teacher_of(network, every)
        if dense and network.is_plain and network.identity["target"] in (None, "non_essential"):
            yield network, dense


def _against_dense(
    tracked: Tracked,
    pairs: Iterator[tuple[Network, Network]],
    columns: Sequence[str],
    sign: Callable[[Difference], int],
) -> list[Evidence]:
    return [
        compare(f"{network.title}: {_accuracy(column)}, against dense", found, sign=sign)
        for network, dense in pairs
        for column in columns
        if (found := tracked.comparer.compare(network, dense, column))
    ]


def _accuracy(column: str) -> str:
    """What is compared, after the images of the fine-tuning: "clean accuracy", "PGD-20", "worst case"."""
    return {CLEAN: "clean accuracy", WORST_CASE: "worst case"}.get(column, column_name(column))


def robust_under_the_papers_attacks(tracked: Tracked) -> list[Evidence]:
    """Gains over dense under the paper's attacks by gradient at 90% and more noise."""
    return _against_dense(tracked, _at_least_90(tracked), PAPER_ATTACKS, rises)


def robust_under_autoattack(tracked: Tracked) -> list[Evidence]:
    """Gains over dense under AutoAttack as the paper runs it at 90% and more noise."""
    return _against_dense(tracked, _at_least_90(tracked), [AUTOATTACK], rises)


def _at_least_90(tracked: Tracked) -> Iterator[tuple[Network, Network]]:
    return (pair for pair in _noisy(tracked) if (pair[0].identity["ratio"] or 0) >= HIGH)


def rises_with_the_ratio(tracked: Tracked) -> list[Evidence]:
    """PGD-20 at the highest ratio against the lowest one that was measured."""
    return _ends(tracked, "non_essential", "pgd20", rises)


def robust_against_adaptive_attacks(tracked: Tracked) -> list[Evidence]:
    """The adaptive worst case of networks with noise against dense."""
    pairs = (
        (network, dense)
        for network, dense in _noisy(tracked)
        if network.has_adaptive_worst_case and dense.has_adaptive_worst_case
    )
    return _against_dense(tracked, pairs, [WORST_CASE], rises)


def gradients_are_not_masked(tracked: Tracked) -> list[Evidence]:
    """The verdict on masked gradients of every network with noise.

    A test that is raised for the dense network as well says nothing about the noise.
    """
    found = []
    for network, dense in _noisy(tracked):
        without = {run["seed"]: read_verdict(run) for run in dense.runs}
        for run in network.runs:
            verdict = read_verdict(run)
            if verdict is None:
                continue
            raised = listed(name.replace("_", " ") for name in verdict.raised)
            other = without.get(run["seed"])
            beside = f" ({len(other.raised)} for its dense network)" if other else ""
            own = set(verdict.raised).difference(other.raised if other else ())
            found.append(
                Evidence(
                    subject=f"{network.title}, seed {run['seed']}",
                    numbers=f"{len(verdict.raised)} of {len(TESTS)} tests raised{beside}"
                    + (f": {raised}" if raised else ""),
                    sign=-1 if own else 0 if verdict.raised else 1,
                    basis=f"{run['images']} images, 1 seed",
                    run_ids=(run["run_id"],),
                )
            )
    return found


def clean_is_kept_below_90(tracked: Tracked) -> list[Evidence]:
    """Clean accuracy of every ratio below 90% against dense."""
    pairs = (pair for pair in _noisy(tracked) if 0 < (pair[0].identity["ratio"] or 0) < CLEAN_FALLS_AT)
    return _against_dense(tracked, pairs, [CLEAN], kept_within(MARGIN))


def clean_falls_from_90(tracked: Tracked) -> list[Evidence]:
    """Clean accuracy of every ratio from 90% on against dense."""

    def sign(change: Difference) -> int:
        return -kept_within(MARGIN)(change)

    pairs = (pair for pair in _noisy(tracked) if (pair[0].identity["ratio"] or 0) >= CLEAN_FALLS_AT)
    return _against_dense(tracked, pairs, [CLEAN], sign)


def robust_rises_from_60(tracked: Tracked) -> list[Evidence]:
    """PGD-20 at the smallest ratio from 60% on (and below 90%) against dense."""

    def wanted(ratio: float) -> bool:
        return ROBUST_RISES_AT <= ratio < HIGH

    return _first_against_dense(tracked, "non_essential", "pgd20", wanted, "PGD-20", rises)


def essential_loses_clean(tracked: Tracked) -> list[Evidence]:
    """Clean accuracy with noise in essential neurons, at the smallest ratio from 20% on, against dense."""

    def wanted(ratio: float) -> bool:
        return ratio >= ESSENTIAL_FALLS_AT

    return _first_against_dense(tracked, "essential", CLEAN, wanted, "noise in essential neurons", falls)


def _first_against_dense(
    tracked: Tracked,
    target: str,
    column: str,
    wanted: Callable[[float], bool],
    what: str,
    sign: Callable[[Difference], int],
) -> list[Evidence]:
    """`column` at the smallest `wanted` ratio of every curve against dense."""
    found = []
    for title, group in ratio_curves(tracked.runs).items():
        own = group.get(target, {})
        ratios = [ratio for ratio in own if wanted(ratio)]
        if 0.0 in own and ratios:
            change = tracked.comparer.compare(own[min(ratios)], own[0.0], column)
            if change:
                subject = f"{title}, {what}, ratio {min(ratios):g} against dense"
                found.append(compare(subject, change, sign=sign))
    return found


def essential_gains_under_pgd(tracked: Tracked) -> list[Evidence]:
    """PGD-20 with noise in essential neurons at the highest ratio against the lowest."""
    return _ends(tracked, "essential", "pgd20", rises)


def choice_beats_random(tracked: Tracked) -> list[Evidence]:
    """Clean accuracy with noise in non-essential neurons against as much in random ones."""
    return _against_random(tracked, CLEAN, "clean images", lambda network: True)


def choice_beats_random_in_the_worst_case(tracked: Tracked) -> list[Evidence]:
    """The adaptive worst case with noise in non-essential neurons against as much in random ones."""
    return _against_random(tracked, WORST_CASE, "worst case", lambda network: network.has_adaptive_worst_case)


def _against_random(
    tracked: Tracked, column: str, what: str, counts: Callable[[Network], bool]
) -> list[Evidence]:
    """`column` of the chosen neurons against random ones, at every ratio where both networks count."""
    found = []
    for title, group in ratio_curves(tracked.runs).items():
        chosen, control = group.get("non_essential", {}), group.get("random", {})
        for ratio in sorted(chosen.keys() & control.keys() - {0.0}):
            pair = chosen[ratio], control[ratio]
            change = tracked.comparer.compare(*pair, column)
            if change and all(map(counts, pair)):
                subject = f"{title}, {what}, ratio {ratio:g}, non-essential against random"
                found.append(compare(subject, change, sign=rises))
    return found


def gain_grows_with_the_radius(tracked: Tracked) -> list[Evidence]:
    """The gain over dense under the longest PGD at the largest radius of the paper's against the smallest."""
    printed = {eps for _, _, eps in FIGURE3_GAINS} | {8}
    found = []
    for own in grids(tracked.runs).values():
        for network in own:
            if network.is_dense or (network.identity["ratio"] or 0) < HIGH:
                continue
            dense = teacher_of(network, own)
            radii = sorted({radius for radius, _, _ in pgd_grid(network) if radius in printed})
            columns = {radius: name for radius in radii if (name := gain_column(network, dense, radius))}
            if dense is None or len(columns) < 2:
                continue
            near, far = min(columns), max(columns)
            change = tracked.comparer.compare_gains(network, dense, columns[far], columns[near])
            assert change is not None
            found.append(_growth(f"{network.title}, {far:g}/255 against {near:g}/255", change))
    return found


def patterns_gain_under_pgd(tracked: Tracked) -> list[Evidence]:
    """PGD-20 of N:M patterns with noise in at least half of the neurons against dense."""
    pairs = (
        pair for pair in _noisy(tracked) if pair[0].identity["pattern"] and (pair[0].noisy_share or 0) >= 0.5
    )
    return _against_dense(tracked, pairs, ["pgd20"], rises)


def sparsity_rises_and_falls(tracked: Tracked) -> list[Evidence]:
    """Every curve of robustness over sparsity (`analysis.sparsity`)."""
    attack_runs = tracked.runs.filter(pl.col("stage") == "attack")
    if attack_runs.is_empty():
        return []
    table = build_table(attack_runs)
    found = []
    for study in sparsity.studies(table):
        for method, curve in study.curves.items():
            for column in sparsity.measures(table, study):
                trend = sparsity.trend(curve, column)
                if trend is None:
                    continue
                against = trend.falls and not trend.rises
                _, last = curve[-1]
                found.append(
                    Evidence(
                        subject=f"{study.title}, {method}, {column_name(column)}",
                        numbers=f"{trend.words}: best at sparsity {trend.best:g}, sparsest {trend.last:g}",
                        sign=1 if trend.words == sparsity.RISE_AND_FALL else -1 if against else 0,
                        basis=f"{INDEPENDENT}, {last.images} images, seed {last.identity['seed']}",
                        run_ids=tuple(str(row.tracked["run_id"]) for _, row in curve),
                    )
                )
    return found


def _ends(tracked: Tracked, target: str, column: str, sign: Callable[[Difference], int]) -> list[Evidence]:
    """The highest ratio of every curve against the lowest one, which is 0 where there is a dense network."""
    found = []
    for title, group in ratio_curves(tracked.runs).items():
        curve = group.get(target, {})
        known = [ratio for ratio, one in curve.items() if one.accuracy(column)]
        if len(known) < 2:
            continue
        low, high = known[0], known[-1]
        change = tracked.comparer.compare(curve[high], curve[low], column)
        assert change is not None
        start = "dense" if low == 0 else f"ratio {low:g}"
        subject = f"{title}, noise in {target.replace('_', '-')} neurons, {column_name(column)}"
        found.append(compare(f"{subject}, ratio {high:g} against {start}", change, sign=sign))
    return found


def _growth(subject: str, found: Comparison) -> Evidence:
    """The evidence of two gains in points."""
    grown = found.difference
    return Evidence(
        subject=subject,
        numbers=f"gain {points(found.now)} against {points(found.before)} points: {points(grown.value)} "
        f"(95% interval {points(grown.low)} to {points(grown.high)})",
        sign=grown.sign,
        basis=found.basis,
        run_ids=found.run_ids,
    )


def _interval_rule(what: str) -> str:
    return f"{what}; clear is a difference whose 95% interval leaves out zero."


MASKING_GRIDS = ("table1", "smoke")
TABLE1 = ("table1", "small-table1")
FIGURE3 = ("figure3", "small-figure3")
FIGURE4 = ("figure4", "small-figure4")
TABLE4 = ("table4", "small-table4")
PAPER = "the paper"
CLAIMS = (
    Claim(
        title="Noise makes it more robust under the paper's attacks by gradient",
        text="with 90% and more noise, accuracy under FGSM, PGD and MIFGSM is above that of the dense "
        "network.",
        source=f"{PAPER}, section 4.2, tables 1 and 2",
        rule=_interval_rule("a clear gain over the dense network is for it, a clear loss against it"),
        needs="network with 90% noise or more beside its dense network under the paper's attacks",
        grids=TABLE1,
        gather=robust_under_the_papers_attacks,
    ),
    Claim(
        title="Noise makes it more robust under AutoAttack as the paper runs it",
        text="with 90% and more noise, accuracy under AutoAttack of torchattacks is above that of the dense "
        "network.",
        source=f"{PAPER}, section 4.2, tables 1 and 2",
        rule=_interval_rule("a clear gain over the dense network is for it, a clear loss against it"),
        needs="network with 90% noise or more beside its dense network under that attack",
        grids=TABLE1,
        gather=robust_under_autoattack,
    ),
    Claim(
        title="The gain is there for an attacker who knows the defence",
        text="the robustness is real, so that it is there in the worst case over adaptive attacks as well.",
        source=f"implied by {PAPER}, which runs no adaptive attack",
        rule=_interval_rule(
            "a clear gain in the adaptive worst case over dense is for it, a clear loss against"
        ),
        needs="network with noise, beside its dense network, under adaptive attacks",
        grids=TABLE1,
        gather=robust_against_adaptive_attacks,
    ),
    Claim(
        title="The gradients are not masked",
        text="attacks by gradient fail because the networks are robust, not because the gradient is hidden.",
        source=f"implied by {PAPER}, which sees obfuscation for essential neurons only (section 4.5)",
        rule="a network for which none of the tests of masked gradients is raised is for it, one for which a "
        "test is raised that is not raised for its dense network of the same seed is against it.",
        needs="verdict on masked gradients of a network with noise",
        grids=MASKING_GRIDS,
        gather=gradients_are_not_masked,
    ),
    Claim(
        title="Robust accuracy rises with the share of noise",
        text="accuracy under PGD-20 grows with the injection ratio.",
        source=f"{PAPER}, section 4.5, figure 4",
        rule=_interval_rule("a clear gain of the highest ratio over the lowest is for it"),
        needs="network with noise at two ratios or more",
        grids=FIGURE4,
        gather=rises_with_the_ratio,
    ),
    Claim(
        title="Robust accuracy is higher from 60% noise on",
        text="accuracy under PGD-20 is substantially higher from an injection ratio of 60% on.",
        source=f"{PAPER}, section 4.5, figure 4",
        rule=_interval_rule("a clear gain over dense at the smallest ratio between 60% and 90% is for it"),
        needs="network with noise between 60% and 90% in a series of ratios",
        grids=FIGURE4,
        gather=robust_rises_from_60,
    ),
    Claim(
        title="Clean accuracy is kept below 90% noise",
        text="up to an injection ratio of 90% clean accuracy stays what it is.",
        source=f"{PAPER}, section 4.5, figure 4, table 4",
        rule="for it where the whole 95% interval of the difference to dense is above "
        f"{points(-MARGIN, digits=0)} points, against it where there is a clear fall.",
        needs="network with noise below 90% beside its dense network",
        grids=FIGURE4,
        gather=clean_is_kept_below_90,
    ),
    Claim(
        title="Clean accuracy falls from 90% noise on",
        text="clean accuracy begins to fall clearly at an injection ratio of 90%.",
        source=f"{PAPER}, section 4.5, figure 4",
        rule=f"for it on a clear fall against dense, against it where the whole 95% interval is above "
        f"{points(-MARGIN, digits=0)} points.",
        needs="network with 90% noise or more beside its dense network",
        grids=FIGURE4,
        gather=clean_falls_from_90,
    ),
    Claim(
        title="Noise in essential neurons costs clean accuracy",
        text="with noise in essential neurons clean accuracy is lost already at 20%.",
        source=f"{PAPER}, section 4.5, figure 4",
        rule=_interval_rule(
            "a clear fall at the smallest ratio from 20% on is for it, a clear rise against it"
        ),
        needs="network with noise in its essential neurons",
        grids=FIGURE4,
        gather=essential_loses_clean,
    ),
    Claim(
        title="Noise in essential neurons raises accuracy under PGD",
        text="accuracy under PGD-20 grows with the share of essential neurons with noise, too.",
        source=f"{PAPER}, section 4.5, figure 4",
        rule=_interval_rule("a clear gain of the highest ratio over the lowest is for it"),
        needs="network with noise in its essential neurons",
        grids=FIGURE4,
        gather=essential_gains_under_pgd,
    ),
    Claim(
        title="Which neurons are chosen matters for clean accuracy",
        text="noise in non-essential neurons costs less clean accuracy than as much in random ones.",
        source="the control that the paper lacks",
        rule=_interval_rule("clearly more clean accuracy than with random neurons is for it"),
        needs="network with noise in random neurons beside one with as much in non-essential ones",
        grids=FIGURE4,
        gather=choice_beats_random,
    ),
    Claim(
        title="Which neurons are chosen matters in the worst case",
        text="noise in non-essential neurons resists adaptive attacks better than as much in random ones.",
        source="the control that the paper lacks",
        rule=_interval_rule("a clearly higher adaptive worst case than with random neurons is for it"),
        needs="network with noise in random neurons, beside one with as much in non-essential ones, under "
        "adaptive attacks",
        grids=FIGURE4,
        gather=choice_beats_random_in_the_worst_case,
    ),
    Claim(
        title="The gain grows with the radius of the attack",
        text="the gain over adversarial training under PGD is larger at 12/255 and 16/255 than at 8/255 "
        "(printed for 90% noise on CIFAR-10: +23.8 and +28.6 points).",
        source=f"{PAPER}, section 4.3, figure 3",
        rule=_interval_rule("a clearly larger gain at the largest radius than at the smallest is for it"),
        needs="network with 90% noise or more beside its dense network under PGD of several radii",
        grids=FIGURE3,
        gather=gain_grows_with_the_radius,
    ),
    Claim(
        title="Structured noise makes it more robust, too",
        text="N:M patterns with noise in half of the neurons or more gain under PGD-20 over the dense "
        "network.",
        source=f"{PAPER}, appendix B, table 4",
        rule=_interval_rule("a clear gain over the dense network is for it, a clear loss against it"),
        needs="network with an N:M pattern beside its dense network under PGD-20",
        grids=TABLE4,
        gather=patterns_gain_under_pgd,
    ),
    Claim(
        title="Robustness of sparse networks rises and then falls",
        text="an appropriately higher sparsity implies better robustness, too few weights less.",
        source="Guo et al. 2018 (arXiv:1810.09619)",
        rule="for it where a clear rise is followed by a clear fall, against it on a clear fall without a "
        "rise.",
        needs="series of sparse networks",
        grids=("sparse", "small-sparse"),
        gather=sparsity_rises_and_falls,
    ),
)
