"""Work by closed forms, estimates from what was measured, and what is left while a sweep runs."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from manifests import manifest
from tiny_experiment import TINY

from nenni_core.data import DATASETS, dataset_extent, load_dataset
from nenni_core.errors import InputError
from pipeline import costs
from pipeline.costs import NOTHING, Estimate, Rates, facts_of, measured_rates, total
from pipeline.experiment import Experiment, ExperimentSet
from pipeline.graph import Graph, NodeId, build_graph
from pipeline.keys import VERSIONS, stage_config, stage_section
from pipeline.planning import glance
from pipeline.remaining import RemainingTime
from pipeline.runner import Plan, plan
from pipeline.schedule import Schedule
from pipeline.store import MANIFEST, Store
from pipeline.sweep_display import critical_path
from pipeline.work import Facts, multiplications, stage_work

FACTS = Facts("small_resnet", "synthetic", train_images=36, validation_images=12, test_images=20)
ONE = multiplications("small_resnet", "synthetic")


def experiments(**changes: dict[str, Any]) -> list[Experiment]:
    content: dict[str, Any] = copy.deepcopy(TINY)
    for section, values in changes.items():
        content[section] = (content.get(section) or {}) | values
    return ExperimentSet.model_validate(content).experiments()


def work(stage: str, facts: Facts = FACTS, **changes: dict[str, Any]) -> float:
    """Forward passes of a stage of the network with noise."""
    return stage_work(stage, stage_section(stage, experiments(**changes)[-1]), facts) / ONE


# --- work -----------------------------------------------------------------------------------------


def test_multiplications_are_those_of_the_convolutions() -> None:
    # a 3 x 3 convolution within a group costs the same in each group: twice the channels, half the size
    within = 9 * 64**2 * 32**2
    shortcuts = 3 * 64 * 128 * 16**2
    assert multiplications("resnet18", "cifar10") == 14.5 * within + shortcuts + 9 * 3 * 64 * 32**2
    within = 9 * 160**2 * 32**2
    shortcuts = 16 * 160 * 32**2 + 160 * 320 * 16**2 + 320 * 640 * 8**2
    expected = (27 + 0.1 + 0.5 + 0.5) * within + shortcuts + 9 * 3 * 16 * 32**2
    assert multiplications("wrn34_10", "cifar10") == pytest.approx(expected, rel=1e-12)


def test_training_is_epochs_of_gradients_and_validations() -> None:
    # three passes a gradient; ten PGD steps; a validation is a clean pass and two PGD steps
    epoch = 36 * 3 * (1 + 2) + 12 * (1 + 3 * 2)
    assert work("pretrain") == 2 * epoch
    assert work("pretrain", pretrain={"epochs": 7}) == 7 * epoch
    assert work("pretrain", pretrain={"steps": 10}) == 2 * (36 * 3 * 11 + 12 * 7)
    assert work("pretrain", pretrain={"defense": "clean"}) == 2 * (36 * 3 + 12 * 7)
    assert work("finetune") == 36 * 3 + 12 * 7
    assert work("finetune", finetune={"objective": "adversarial", "epochs": 3}) == 3 * epoch
    twice = Facts("small_resnet", "synthetic", train_images=72, validation_images=24, test_images=20)
    assert work("pretrain", twice) == 2 * work("pretrain")


def test_distillation_is_a_pass_for_each_epoch() -> None:
    assert work("distill") == 24
    assert work("distill", distill={"images": None}) == 36
    assert work("distill", distill={"solver": "sgd", "epochs": 5}) == 5 * 24


def test_a_defence_on_a_trained_network_has_epochs_of_its_own() -> None:
    defense = {"kind": "sparse", "base": "clean", "epochs": 3}
    assert work("defend", pretrain={"defense": defense}) == 3 * (36 * 3 + 12 * 7)
    adversarial = defense | {"base": "adversarial"}
    assert work("defend", pretrain={"defense": adversarial}) == 3 * (36 * 3 * 3 + 12 * 7)


@pytest.mark.parametrize(
    ("attack", "passes"),
    [
        ({"kind": "fgsm"}, 3),
        ({"kind": "pgd", "steps": 7}, 21),
        ({"kind": "apgd_ce", "steps": 7, "eot_samples": 4}, 84),
        ({"kind": "square", "queries": 300}, 300),
        ({"kind": "apgd_dlr_targeted", "steps": 10}, 3 * 10 * 9),
        ({"kind": "apgd_dlr_targeted", "steps": 10, "target": 2}, 3 * 10),
        ({"kind": "deepfool", "steps": 5}, 3 * 5 * 10),
    ],
)
def test_an_attack_is_its_passes_for_each_image(attack: dict[str, Any], passes: int) -> None:
    assert work("attack", attack={"attacks": {"a": attack}}) == 12 * (1 + passes)
    assert work("attack", attack={"attacks": {"a": attack}, "images": 6}) == 6 * (1 + passes)
    assert work("attack", attack={"attacks": {"a": attack}, "images": None}) == 20 * (1 + passes)
    both = {"a": attack, "b": {"kind": "fgsm", "survivors_of": ["a"]}}
    assert work("attack", attack={"attacks": both}) == 12 * (1 + passes + 1.5)  # half of them are left


def test_data_and_masks_are_images() -> None:
    assert stage_work("prepare", experiments()[0].prepare, FACTS) == 36 + 12 + 20
    assert work("simulate", simulate={"images": 5}) == 5


@pytest.mark.parametrize(
    "stage", ["prepare", "pretrain", "defend", "distill", "finetune", "attack", "simulate"]
)
def test_a_stored_configuration_is_the_same_work(stage: str) -> None:
    [*_, experiment] = experiments(
        pretrain={"defense": {"kind": "sparse", "epochs": 2}}, simulate={"images": 2}, attack={"ensemble": 1}
    )
    section, stored = stage_section(stage, experiment), stage_config(stage, experiment)
    assert stage_work(stage, section, FACTS) == stage_work(stage, stored, FACTS)


@pytest.mark.parametrize("name", ["digits", "synthetic"])
def test_the_extent_of_a_data_set_is_that_of_its_arrays(name: str) -> None:
    data, extent = load_dataset(name), dataset_extent(name)
    assert len(data.train_images) == extent.train_images
    assert len(data.test_images) == extent.test_images
    assert data.train_images.shape[1:] == extent.image_shape
    assert max(data.train_labels) + 1 == extent.num_classes


def test_the_extent_of_unknown_data_names_them() -> None:
    cifar = [dataset_extent(name) for name in ("cifar10", "cifar100")]
    assert [(e.train_images, e.test_images, e.num_classes) for e in cifar] == [
        (50_000, 10_000, 10),
        (50_000, 10_000, 100),
    ]
    with pytest.raises(InputError, match="did you mean 'cifar10'"):
        dataset_extent("cifar1")
    assert {dataset_extent(name).num_classes for name in DATASETS} <= {10, 100}


# --- estimates ------------------------------------------------------------------------------------


def graph_of(found: list[Experiment]) -> Graph:
    return build_graph(
        (p, [s for s in ("attack", "simulate") if s in p.experiment.stages]) for p in plan(found)
    )


def store_measured(store: Store, planned: Plan, seconds: dict[str, float], **changes: Any) -> None:
    """Entries that took so long, on two threads."""
    for stage in planned.experiment.stages:
        counts = {"images/train": 36.0, "images/validation": 12.0, "images/test": 20.0}
        store.begin(stage, planned.keys[stage])
        values = {
            "stage_version": VERSIONS[stage],
            "config": stage_config(stage, planned.experiment),
            "upstream": planned.upstream_keys(stage),
            "metrics": counts if stage == "prepare" else {},
            "seconds": seconds[stage],
            "threads": 2,
        }
        store.commit(manifest(planned.keys[stage], stage, **(values | changes)))


SECONDS = {
    "prepare": 1.0,
    "pretrain": 80.0,
    "distill": 3.0,
    "finetune": 20.0,
    "attack": 11.0,
    "simulate": 2.0,
}


def test_what_was_measured_is_estimated_at_what_it_took(tmp_path: Path) -> None:
    graph = graph_of(experiments(simulate={"images": 1})[-1:])
    store_measured(Store(tmp_path), graph.plans[0], SECONDS)
    rates = measured_rates(Store(tmp_path), device="cpu")
    for name, node in graph.nodes.items():
        estimate = rates.estimate(node)
        assert estimate is not None
        core_seconds = 2 * SECONDS[name.stage]
        assert (estimate.low, estimate.middle, estimate.high) == pytest.approx((core_seconds,) * 3)
    [longer] = [
        n
        for n in graph_of(experiments(pretrain={"epochs": 20})[:1]).nodes.values()
        if n.id.stage == "pretrain"
    ]
    estimate = rates.estimate(longer)
    assert estimate is not None
    assert estimate.middle == pytest.approx(10 * 2 * SECONDS["pretrain"])  # ten times as many epochs


def test_facts_of_a_stage_to_come_are_those_that_are_recorded_when_it_is_done() -> None:
    [node, *_] = graph_of(experiments()).nodes.values()
    assert facts_of(node) == FACTS
    limits = {"train_images": None, "test_images": None}
    [whole, *_] = graph_of(experiments(prepare=limits)).nodes.values()
    extent = dataset_extent("synthetic")
    assert facts_of(whole).train_images == extent.train_images - 12
    assert facts_of(whole).test_images == extent.test_images


def test_only_what_can_be_compared_is(tmp_path: Path) -> None:
    graph = graph_of(experiments()[:1])
    for number, changes in enumerate(({"device": "cuda"}, {"stage_version": 0}, {"upstream": {}})):
        store = Store(tmp_path / str(number))
        store_measured(store, graph.plans[0], SECONDS, **changes)
        found = measured_rates(store, device="cpu")
        known = {name.stage for name, node in graph.nodes.items() if found.estimate(node) is not None}
        assert known == (set() if "stage_version" in changes else {"prepare"})
    path = store.entry_path("prepare", graph.plans[0].keys["prepare"]) / MANIFEST
    path.write_text(path.read_text().replace('"seconds": 1.0', '"seconds": 9.0'))  # not what was sealed
    node = graph.nodes[NodeId("prepare", graph.plans[0].keys["prepare"])]
    assert measured_rates(store, device="cpu").estimate(node) is None
    assert measured_rates(Store(tmp_path / "none"), device="cpu").estimate(node) is None


def test_only_the_newest_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "MOST_READ", 0)
    graph = graph_of(experiments()[:1])
    store_measured(Store(tmp_path), graph.plans[0], SECONDS)
    (tmp_path / "attack" / "empty").mkdir()
    found = measured_rates(Store(tmp_path), device="cpu")
    known = {name.stage for name, node in graph.nodes.items() if found.estimate(node) is not None}
    assert "pretrain" in known


def test_the_spread_is_the_middle_80_percent_and_networks_are_kept_apart() -> None:
    [*_, node] = graph_of(experiments()[:1]).nodes.values()
    assert node.id.stage == "attack"
    rates = np.random.default_rng(0).lognormal(size=37)
    unit = stage_work("attack", stage_section("attack", node.plan.experiment), FACTS)
    other = {("attack", "resnet18"): [1e9]}
    found = Rates({("attack", "small_resnet"): rates.tolist()} | other).estimate(node)
    assert found is not None
    expected = np.percentile(rates, [10, 50, 90]) * unit
    assert (found.low, found.middle, found.high) == pytest.approx(tuple(expected))
    # another network is better than nothing
    assert Rates(other).estimate(node) == Estimate(1e9 * unit, 1e9 * unit, 1e9 * unit)
    assert Rates({("finetune", "small_resnet"): [1.0]}).estimate(node) is None


def test_totals_add_up_and_count_what_is_unknown() -> None:
    a, b, c = (NodeId("attack", key) for key in "abc")
    estimates = {a: Estimate(2.0, 1.0, 4.0), b: None, c: Estimate(3.0, 2.0, 5.0)}
    assert total(estimates, [a, b, c]) == (Estimate(5.0, 3.0, 9.0), 1)
    assert total(estimates, []) == (NOTHING, 0)


def test_the_longest_path_is_of_what_is_missing(tmp_path: Path) -> None:
    graph = graph_of(experiments(simulate={"images": 1}))
    seconds = SECONDS | {"attack": 7.0}
    estimates = {name: Estimate(seconds[name.stage], 0.0, 0.0) for name in graph.nodes}
    path, length = critical_path(graph, glance(graph, Store(tmp_path)), estimates)
    assert [name.stage for name in path] == ["prepare", "pretrain", "distill", "finetune", "attack"]
    assert length == sum(seconds[name.stage] for name in path)
    for planned in graph.plans:
        for stage in ("prepare", "pretrain"):
            if Store(tmp_path).find(stage, planned.keys[stage]) is None:
                Store(tmp_path).begin(stage, planned.keys[stage])
                Store(tmp_path).commit(manifest(planned.keys[stage], stage))
    path, length = critical_path(graph, glance(graph, Store(tmp_path)), estimates)
    assert [name.stage for name in path] == ["distill", "finetune", "attack"]
    assert length == 3.0 + 20.0 + 7.0


# --- what is left ---------------------------------------------------------------------------------


def test_what_is_left_is_learnt_from_what_was_measured() -> None:
    content = {"finetune": {"ratio": [0.1, 0.3, 0.5, 0.7, 0.9]}}
    graph = graph_of(experiments(**content))
    guess = dict.fromkeys(graph.nodes, 10.0)
    schedule = Schedule(graph, seconds=guess)
    left = RemainingTime(graph, schedule, guess)
    assert left.seconds(1) == (10.0 * len(graph.nodes), True)
    assert left.seconds(1e9) == (10.0, True)  # one stage takes so long at least
    while not schedule.is_over:
        name = schedule.next()
        assert name is not None
        schedule.succeed(name)
        left.took(name, 2.5)  # every stage is four times as fast
        kinds = {name.stage for name, state in schedule.states.items() if state == "done"}
        expected = sum(
            2.5 if name.stage in kinds else 10.0 for name, state in schedule.states.items() if state != "done"
        )
        assert left.seconds(1)[0] == pytest.approx(expected)
    assert left.seconds(4) == (0.0, True)


def test_what_has_no_estimate_is_learnt_too() -> None:
    graph = graph_of(experiments(finetune={"ratio": [0.5, 0.9]}))
    schedule = Schedule(graph, seconds={})
    left = RemainingTime(graph, schedule, dict.fromkeys(graph.nodes))
    assert left.seconds(1) == (0.0, False)
    for name in graph.nodes:
        if name.stage != "attack":
            assert schedule.next(lambda other, name=name: other == name) == name
            schedule.succeed(name)
    attacks = [name for name in graph.nodes if name.stage == "attack"]
    assert schedule.next() in attacks
    first = next(name for name in attacks if schedule.states[name] == "running")
    schedule.succeed(first)
    left.took(first, 6.0)
    assert left.seconds(2) == (6.0 * (len(attacks) - 1) / 2, True)
