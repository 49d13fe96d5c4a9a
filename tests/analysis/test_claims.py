"""Which numbers are fit for a claim, which for a comparison with the paper, and which for neither."""

import pytest
from paper_runs import DENSE, attack, frame, noise, prepared

from analysis.paper_tables import Entry, build_paper_tables

WANTED = {"model": "resnet18", "dataset": "cifar10", "trained_by": "adversarial", "defence": "dense"}


def entry(*rows, column: str = "pgd20", expected=()) -> Entry:
    [table] = build_paper_tables(frame(*rows), name="table1", expected=expected)
    return next(row for row in table.rows if row.method.is_baseline).entries[column]


def test_the_full_test_set_a_clean_commit_and_the_papers_protocol() -> None:
    found = entry(prepared(), attack(DENSE, {"pgd20": 5253}))
    assert found.fitness.is_claim
    assert found.fitness.is_comparable
    assert found.fitness.denominators == "10000 of 10000 images, 1 of 1 seed"
    assert found.verdict is not None
    assert found.verdict.word == "agrees"


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"images": 400}, "400 of 10000 test images"),
        ({"git_dirty": True}, "uncommitted changes (attack)"),
        ({"params": {"attacks.pgd20.eps": "2/255"}}, "PGD-20 with eps 2/255"),
        ({"params": {"attacks.pgd20.steps": "10"}}, "PGD-20 with steps 10"),
    ],
)
def test_what_makes_a_number_exploratory(other, reason: str) -> None:
    found = entry(prepared(), attack(DENSE, {"pgd20": 300}, **other))
    assert not found.fitness.is_claim
    assert reason in "; ".join(found.fitness.against_claim)
    assert found.verdict is None


def test_settings_are_compared_as_numbers() -> None:
    found = entry(prepared(), attack(DENSE, {}, params={"attacks.pgd20.eps": str(8 / 255)}))
    assert found.fitness.is_claim


def test_a_stage_before_with_uncommitted_changes_counts() -> None:
    found = entry(prepared() | {"git_dirty": True}, attack(DENSE, {}))
    assert found.fitness.against_claim == ("uncommitted changes (prepare)",)


def test_a_departure_in_one_attack_says_nothing_of_another() -> None:
    run = attack(DENSE, {}, params={"attacks.pgd20.eps": "2/255"})
    assert entry(prepared(), run, column="fgsm").fitness.is_claim


def test_seeds_that_are_wanted_and_not_there() -> None:
    expected = [WANTED | {"seed": seed} for seed in range(3)]
    found = entry(prepared(), attack(DENSE, {}), attack(DENSE, {}, seed=2), expected=expected)
    assert found.fitness.against_claim == ("2 of 3 seeds",)
    assert found.fitness.denominators == "10000 of 10000 images, 2 of 3 seeds"


def test_without_a_plan_every_seed_that_any_network_has_is_wanted() -> None:
    found = entry(prepared(), attack(DENSE, {}), attack(noise(0.9), {}), attack(noise(0.9), {}, seed=1))
    assert found.fitness.against_claim == ("1 of 2 seeds",)


def test_seeds_of_two_commits_are_exploratory() -> None:
    found = entry(prepared(), attack(DENSE, {}), attack(DENSE, {}, seed=1, git_commit="d" * 40))
    assert found.fitness.against_claim == ("2 commits",)


@pytest.mark.parametrize(
    ("run", "before", "reason"),
    [
        ({"model": "small_resnet"}, {}, "small_resnet in place of ResNet-18"),
        ({"pretrain_epochs": 10}, {}, "10 epochs of training in place of 200"),
        ({}, {"train_images": "4500"}, "4500 of 50000 training images"),
    ],
)
def test_a_claim_of_other_networks_is_not_compared_with_the_paper(run, before, reason: str) -> None:
    found = entry(prepared(params=before), attack(DENSE, {"pgd20": 5253}, **run))
    assert found.fitness.is_claim
    assert found.fitness.against_comparison == (reason,)
    assert found.verdict is None
