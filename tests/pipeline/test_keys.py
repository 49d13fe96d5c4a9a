"""Content keys: equal for what gives equal outputs, different for everything else."""

import json
from hashlib import sha256
from typing import Any

import pytest

from pipeline.experiment import STAGES, Experiment, ExperimentSet
from pipeline.keys import VERSIONS, canonical_json, stage_config, stage_keys, upstream

USUAL = tuple(stage for stage in STAGES if stage != "defend")
"""The stages of an experiment whose defence trains from fresh weights."""


def first_variant(content: dict[str, Any]) -> Experiment:
    return next(e for e in ExperimentSet.model_validate(content).experiments() if e.finetune is not None)


def changed_stages(before: dict[str, str], after: dict[str, str]) -> list[str]:
    return [stage for stage in USUAL if before[stage] != after[stage]]


@pytest.mark.parametrize(
    ("section", "change", "expected"),
    [
        ("prepare", {"validation_images": 10}, list(USUAL)),
        ("prepare", {"split_seed": 1}, list(USUAL)),
        ("prepare", {"path": "/some/where"}, []),
        ("pretrain", {"precision": "bfloat16"}, list(USUAL[1:])),
        ("distill", {"checkpoint": "last"}, list(USUAL[2:])),
        ("finetune", {"ratio": [0.99]}, list(USUAL[3:])),
        ("attack", {"images": 10}, ["attack"]),
        ("tracking", {"experiment": "another"}, []),
    ],
)
def test_a_change_moves_its_stage_and_all_after_it(
    tiny: dict[str, Any], section: str, change: dict[str, Any], expected: list[str]
) -> None:
    before = stage_keys(first_variant(tiny), "data")
    tiny[section] |= change
    assert changed_stages(before, stage_keys(first_variant(tiny), "data")) == expected


def test_the_seed_moves_everything_but_the_data(tiny: dict[str, Any]) -> None:
    before = stage_keys(first_variant(tiny), "data")
    tiny["seed"] = 1
    assert changed_stages(before, stage_keys(first_variant(tiny), "data")) == list(USUAL[1:])


def test_other_data_moves_everything(tiny: dict[str, Any]) -> None:
    experiment = first_variant(tiny)
    assert changed_stages(stage_keys(experiment, "data"), stage_keys(experiment, "other")) == list(USUAL)


def test_a_new_version_of_a_stage_moves_it_and_all_after_it(
    tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = first_variant(tiny)
    before = stage_keys(experiment, "data")
    monkeypatch.setitem(VERSIONS, "distill", VERSIONS["distill"] + 1)
    assert changed_stages(before, stage_keys(experiment, "data")) == list(USUAL[2:])


def test_variants_share_their_prefix(tiny: dict[str, Any]) -> None:
    tiny["finetune"] |= {"ratio": [0.5, 0.9]}
    dense, half, most = (stage_keys(e, "data") for e in ExperimentSet.model_validate(tiny).experiments())
    assert changed_stages(half, most) == ["finetune", "attack"]
    assert dense["pretrain"] == half["pretrain"]
    assert len({dense["attack"], half["attack"], most["attack"]}) == 3


def test_the_dense_attack_depends_on_the_checkpoint_but_not_on_the_distillation(tiny: dict[str, Any]) -> None:
    def dense_key() -> str:
        return stage_keys(ExperimentSet.model_validate(tiny).experiments()[0], "data")["attack"]

    before = dense_key()
    tiny["distill"]["images"] = 12
    assert dense_key() == before
    tiny["distill"]["checkpoint"] = "last"
    assert dense_key() != before


def test_spelling_does_not_matter(tiny: dict[str, Any]) -> None:
    before = stage_keys(first_variant(tiny), "data")
    tiny["pretrain"] = dict(reversed(tiny["pretrain"].items())) | {"eps": 8 / 255, "momentum": "9/10"}
    tiny["attack"]["attacks"] = dict(reversed(tiny["attack"]["attacks"].items()))
    tiny["finetune"]["ratio"] = 0.9
    assert stage_keys(first_variant(tiny), "data") == before


def test_keys_are_the_same_tomorrow(tiny: dict[str, Any]) -> None:
    """A store must outlive an upgrade of a library: keys hang on nothing but the content."""
    assert canonical_json({"b": [1, 0.1, None, "é"], "a": {"y": True, "x": 1e-05}}) == (
        '{"a":{"x":1e-05,"y":true},"b":[1,0.1,null,"\\u00e9"]}'
    )
    config = stage_config("pretrain", first_variant(tiny))
    assert json.loads(canonical_json(config)) == config
    assert config["eps"] == "8/255"


@pytest.mark.parametrize(
    ("section", "change"),
    [
        ("pretrain", {"milestones": [7]}),  # the schedule is constant
        ("pretrain", {"decay": 0.5}),
        ("distill", {"epochs": 3}),  # the solver is the closed form
        ("distill", {"learning_rate": 0.1}),
        ("distill", {"bank_size": 9}),  # the projection is fixed
        ("finetune", {"steps": 5}),  # the objective is clean
    ],
)
def test_what_no_stage_reads_moves_nothing(
    tiny: dict[str, Any], section: str, change: dict[str, Any]
) -> None:
    before = stage_keys(first_variant(tiny), "data")
    tiny[section] |= change
    assert stage_keys(first_variant(tiny), "data") == before


@pytest.mark.parametrize(
    ("section", "choice", "change", "first"),
    [
        ("pretrain", {"schedule": "step"}, {"milestones": [7]}, "pretrain"),
        ("distill", {"solver": "sgd"}, {"epochs": 3}, "distill"),
        ("distill", {"randomize": "bank"}, {"bank_size": 9}, "distill"),
        ("finetune", {"objective": ["adversarial"]}, {"steps": 5}, "finetune"),
        ("finetune", {}, {"step_size": "1/255"}, "finetune"),  # the validation reads it
    ],
)
def test_what_a_choice_makes_a_stage_read_moves_it(
    tiny: dict[str, Any], section: str, choice: dict[str, Any], change: dict[str, Any], first: str
) -> None:
    tiny[section] |= choice
    before = stage_keys(first_variant(tiny), "data")
    tiny[section] |= change
    assert changed_stages(before, stage_keys(first_variant(tiny), "data"))[0] == first


def test_a_key_is_the_hash_of_what_it_says(tiny: dict[str, Any]) -> None:
    """Written out by hand: an entry's key can be recomputed without this project."""
    config = (
        '{"dataset":"synthetic","split_seed":0,"test_images":20,"train_images":48,"validation_images":12}'
    )
    version = VERSIONS["prepare"]
    content = (
        f'{{"config":{config},"data":"d","seed":0,"stage":"prepare","upstream":{{}},"version":{version}}}'
    )
    assert stage_keys(first_variant(tiny), "d")["prepare"] == sha256(content.encode()).hexdigest()


def test_what_an_attack_does_not_read_moves_nothing(tiny: dict[str, Any]) -> None:
    before = stage_keys(first_variant(tiny), "data")
    tiny["attack"]["attacks"]["fgsm"] |= {"steps": 7, "queries": 9}
    assert stage_keys(first_variant(tiny), "data") == before
    tiny["attack"]["attacks"]["fgsm"] |= {"eps": "4/255"}
    assert changed_stages(before, stage_keys(first_variant(tiny), "data")) == ["attack"]


def test_a_transfer_reads_the_teacher(tiny: dict[str, Any]) -> None:
    tiny["attack"]["attacks"]["transfer"] = {"kind": "transfer"}
    assert upstream("attack", first_variant(tiny)) == ("prepare", "pretrain", "finetune")
    before = stage_keys(first_variant(tiny), "data")
    tiny["distill"]["checkpoint"] = "last"
    assert stage_config("attack", first_variant(tiny))["checkpoint"] == "last"
    assert changed_stages(before, stage_keys(first_variant(tiny), "data")) == [
        "distill",
        "finetune",
        "attack",
    ]
