"""Runs of one network over its seeds: what is put together, and what is not."""

from fractions import Fraction
from statistics import fmean

import pytest
from recorded_runs import DENSE, PROTOCOL, Recorder, flat, noise, read_back
from scipy import stats

from analysis.networks import Network, mean_interval, networks, teacher_of
from nenni_core.statistics import wilson_interval


def by_label(found: list[Network]) -> dict[str, Network]:
    return {network.label: network for network in found}


def test_one_seed_has_the_wilson_interval_of_its_images(recorder: Recorder) -> None:
    parent = recorder.parent("measured-one")
    run = recorder.attack(parent, noise(ratio="0.9"), {"clean": 150, "pgd20": 60})
    [network] = networks(read_back(recorder, "measured-one", {}).runs)
    accuracy = network.accuracy("pgd20")
    assert accuracy is not None
    assert (accuracy.value, accuracy.images, accuracy.seeds) == (0.3, 200, 1)
    assert accuracy.interval == wilson_interval(60, 200)
    assert accuracy.run_ids == (run,)
    assert network.accuracy("fgsm") is None


def test_seeds_have_their_mean_with_students_interval(recorder: Recorder) -> None:
    parent = recorder.parent("measured-seeds")
    counts = [60, 80, 76]
    for seed, count in enumerate(counts):
        recorder.attack(parent, noise(ratio="0.9") | {"seed": str(seed)}, {"pgd20": count})
    [network] = networks(read_back(recorder, "measured-seeds", {}).runs)
    accuracy = network.accuracy("pgd20")
    assert accuracy is not None
    values = [count / 200 for count in counts]
    assert (accuracy.value, accuracy.seeds) == (pytest.approx(0.36), 3)
    expected = stats.t.interval(0.95, 2, loc=fmean(values), scale=stats.sem(values))
    assert accuracy.interval == pytest.approx(expected)


def test_an_accuracy_that_one_seed_lacks_is_none(recorder: Recorder) -> None:
    parent = recorder.parent("measured-gap")
    recorder.attack(parent, DENSE, {"clean": 180, "pgd20": 60})
    recorder.attack(parent, DENSE | {"seed": "1"}, {"clean": 170})
    [network] = networks(read_back(recorder, "measured-gap", {}).runs)
    assert network.accuracy("pgd20") is None
    assert network.accuracy("clean") is not None


@pytest.mark.parametrize(
    ("tags", "params", "images"),
    [
        ({}, PROTOCOL | {"attacks.pgd20.steps": "7"}, 200),
        ({"data_fingerprint": "0" * 64}, PROTOCOL, 200),
        ({}, PROTOCOL, 100),
    ],
    ids=["protocol", "data", "images"],
)
def test_what_is_not_alike_is_never_averaged(
    recorder: Recorder, request: pytest.FixtureRequest, tags, params, images
) -> None:
    parent = recorder.parent(request.node.name)
    recorder.attack(parent, DENSE, {"pgd20": 60})
    other = DENSE | {"seed": "1"} | tags
    recorder.attack(parent, other, {"pgd20": 30}, params=params, images=images)
    found = networks(read_back(recorder, request.node.name, {}).runs)
    assert [len(network.runs) for network in found] == [1, 1]


def test_the_newest_finished_run_of_a_network_counts(recorder: Recorder) -> None:
    parent = recorder.parent("measured-newest")
    recorder.attack(parent, DENSE, {"pgd20": 10})
    newest = recorder.attack(parent, DENSE, {"pgd20": 20})
    recorder.attack(parent, DENSE, {"pgd20": 30}, status="FAILED")
    [network] = networks(read_back(recorder, "measured-newest", {}).runs)
    assert [run["run_id"] for run in network.runs] == [newest]


def test_attacks_are_what_was_tracked_and_else_what_their_name_says(recorder: Recorder) -> None:
    parent = recorder.parent("measured-attacks")
    params = flat(
        {
            "pgd20_straight_through_eps8": {
                "kind": "pgd",
                "eps": str(8 / 255),
                "steps": "20",
                "gradient": "straight_through",
            }
        }
    )
    counts = {"clean": 9, "pgd20_straight_through_eps8": 5, "pgd50_eps12": 4, "worst_case": 3}
    recorder.attack(parent, DENSE, counts, params=params)
    [network] = networks(read_back(recorder, "measured-attacks", {}).runs)
    tracked, named = (network.attacks[name] for name in ("pgd20_straight_through_eps8", "pgd50_eps12"))
    assert (tracked.kind, tracked.eps, tracked.steps, tracked.gradient) == ("pgd", 8, 20, "straight_through")
    assert (named.kind, named.eps, named.steps, named.gradient) == ("pgd", 12, 50, "blocked")
    assert set(network.attacks) == {"pgd20_straight_through_eps8", "pgd50_eps12"}
    assert tracked.family == "PGD-20, straight-through"


def test_the_worst_case_is_adaptive_only_with_an_adaptive_attack_in_it(recorder: Recorder) -> None:
    parent = recorder.parent("measured-adaptive")
    columns = {"clean": 180, "apgd_ce": 50, "worst_case": 40}
    counted = {"apgd_ce": {"kind": "apgd_ce", "eps": "8/255"}}
    aside = {"apgd_ce": counted["apgd_ce"] | {"in_worst_case": "false"}}
    recorder.attack(parent, DENSE, columns, params=flat(counted))
    recorder.attack(parent, noise(ratio="0.9"), columns, params=flat(aside))
    recorder.attack(parent, noise(ratio="0.5"), {"clean": 180, "pgd20": 50, "worst_case": 40})
    found = by_label(networks(read_back(recorder, "measured-adaptive", {}).runs))
    assert {label: one.has_adaptive_worst_case for label, one in found.items()} == {
        "Dense teacher": True,
        "Ratio 0.9, clean": False,
        "Ratio 0.5, clean": False,
    }


def test_the_share_of_noise_and_the_teacher(recorder: Recorder) -> None:
    parent = recorder.parent("measured-share")
    for tags in (DENSE, noise(ratio="0.9"), noise(pattern="7:8"), DENSE | {"trained_by": "trades"}):
        recorder.attack(parent, tags, {"clean": 180})
    found = networks(read_back(recorder, "measured-share", {}).runs)
    shares = [network.noisy_share for network in found]
    assert shares == [0, 0.9, float(Fraction(7, 8)), 0]
    dense, ratio, pattern, trades = found
    assert teacher_of(ratio, found) is dense
    assert teacher_of(pattern, [trades]) is None


def test_one_value_is_its_own_interval() -> None:
    assert mean_interval([0.25]) == (0.25, 0.25)
    assert mean_interval([0.5, 0.5]) == (0.5, 0.5)
