"""Content keys: equal for what gives equal outputs, different for everything else."""

import json
from hashlib import sha256
from typing import Any

import pytest

from nenni_core.files import canonical_json
from pipeline.experiment import STAGES, Experiment, ExperimentSet
from pipeline.keys import VERSIONS, stage_config, stage_keys, upstream

TO_ATTACK = tuple(stage for stage in STAGES if stage != "simulate")
USUAL = tuple(stage for stage in TO_ATTACK if stage != "defend")
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


# --- defences that start from a trained network ----------------------------------------------------------

TRAINED_ON = {"kind": "sparse", "sparsity": 0.5, "epochs": 1}
NOT_TRAINED = {"kind": "sap", "epochs": 0}


@pytest.mark.parametrize(
    ("defense", "section", "change", "moved_from", "reads_it"),
    [
        # the fine-tuning reads the section too, but for what the defence has of its own
        (TRAINED_ON, "pretrain", {"batch_size": 6}, "pretrain", True),
        (TRAINED_ON, "pretrain", {"schedule": "step"}, "pretrain", True),
        (TRAINED_ON, "pretrain", {"weight_decay": 0.0}, "pretrain", True),
        (TRAINED_ON, "pretrain", {"epochs": 3}, "pretrain", False),
        (TRAINED_ON, "pretrain", {"learning_rate": 0.2}, "pretrain", False),
        (TRAINED_ON, "defense", {"sparsity": 0.8}, "defend", True),
        (TRAINED_ON, "defense", {"epochs": 2}, "defend", True),
        (TRAINED_ON, "defense", {"learning_rate": 0.02}, "defend", True),
        (TRAINED_ON, "defense", {"base": "clean"}, "pretrain", True),
        (TRAINED_ON, "distill", {"images": 12}, "distill", False),
        (TRAINED_ON, "pretrain", {"milestones": [7], "decay": 0.5}, None, False),  # the schedule is constant
        # nothing is trained: the section matters through the network that the defence starts from
        (NOT_TRAINED, "pretrain", {"batch_size": 6}, "pretrain", False),
        (NOT_TRAINED, "pretrain", {"schedule": "step"}, "pretrain", False),
        (NOT_TRAINED, "defense", {"fraction": 0.5}, "defend", True),
        (NOT_TRAINED, "defense", {"epochs": 1}, "defend", True),
    ],
)
def test_what_moves_a_defence_that_starts_from_a_trained_network(
    tiny: dict[str, Any],
    defense: dict[str, Any],
    section: str,
    change: dict[str, Any],
    moved_from: str | None,
    reads_it: bool,
) -> None:
    tiny["pretrain"]["defense"] = dict(defense)
    first = first_variant(tiny)
    before = stage_keys(first, "data")
    assert tuple(before) == TO_ATTACK
    (tiny["pretrain"]["defense"] if section == "defense" else tiny[section]).update(change)
    second = first_variant(tiny)
    after = stage_keys(second, "data")
    expected = TO_ATTACK[TO_ATTACK.index(moved_from) :] if moved_from else ()
    assert tuple(s for s in TO_ATTACK if before[s] != after[s]) == expected
    assert (stage_config("defend", first) != stage_config("defend", second)) == reads_it


def test_a_defence_shares_the_network_that_it_starts_from(tiny: dict[str, Any]) -> None:
    tiny["pretrain"]["defense"] = ["adversarial", TRAINED_ON, NOT_TRAINED]
    tiny["finetune"]["defenses"] = "adversarial"
    experiments = ExperimentSet.model_validate(tiny).experiments()
    keys = [stage_keys(e, "data") for e in experiments if e.finetune is None]
    assert len({key["pretrain"] for key in keys}) == 1
    assert [key.get("defend") is None for key in keys] == [True, False, False]
    assert len({key["attack"] for key in keys}) == 3


# --- layers' own ratios ----------------------------------------------------------------------------------


def test_the_ratios_of_layers_are_in_the_key_and_their_name_is_not(tiny: dict[str, Any]) -> None:
    uniform = first_variant(tiny)
    assert not {"layer_ratios", "layer_ratios_name"} & stage_config("finetune", uniform).keys()
    assert "split" not in stage_config("attack", uniform)  # keys from before there were any

    def own(name: str, ratios: dict[str, float]) -> dict[str, str]:
        tiny["finetune"] |= {"ratio": [], "layer_ratios": {name: ratios}}
        return stage_keys(first_variant(tiny), "data")

    before = own("a", {"conv": 0.5, "last": 0.9})
    assert changed_stages(stage_keys(uniform, "data"), before) == ["finetune", "attack"]
    assert own("b", {"last": 0.9, "conv": 0.5}) == before
    assert changed_stages(before, own("a", {"conv": 0.5, "last": 0.8})) == ["finetune", "attack"]


# --- ensembles -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", [None, "defend"])
def test_an_ensemble_of_a_random_network_moves_its_attack_only(
    tiny: dict[str, Any], stage: str | None
) -> None:
    if stage is None:
        tiny["distill"]["randomize"] = "bank"  # the noise makes the network random
    else:
        tiny["pretrain"]["defense"] = NOT_TRAINED  # the defence does
    before = stage_keys(first_variant(tiny), "data")
    tiny["attack"]["ensemble"] = 1
    assert stage_keys(first_variant(tiny), "data") == before
    assert "ensemble" not in stage_config("attack", first_variant(tiny))  # keys from before there were any
    tiny["attack"]["ensemble"] = 2
    after = stage_keys(first_variant(tiny), "data")
    assert [name for name in before if before[name] != after[name]] == ["attack"]


def test_a_deterministic_network_has_one_pass_whatever_is_asked(tiny: dict[str, Any]) -> None:
    before = stage_keys(first_variant(tiny), "data")
    tiny["attack"]["ensemble"] = [2, 10]
    experiments = ExperimentSet.model_validate(tiny).experiments()
    assert len(experiments) == 2  # dense, and with noise
    assert stage_keys(first_variant(tiny), "data") == before
