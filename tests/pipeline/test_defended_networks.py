"""Every defence passes through the whole pipeline, alone and with the method on top of it."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from nenni_core.bitops import bitops
from nenni_core.chain.artifacts import load_model, load_spec
from nenni_core.defenses import DEFENSES
from nenni_core.files import read_json
from nenni_core.inject import injected_layers
from nenni_core.randomness import noise_streams
from pipeline.experiment import ExperimentSet
from pipeline.keys import stage_keys
from pipeline.problems import describe
from pipeline.runner import ensure
from pipeline.store import Store

# A tiny form of each defence: settings that keep it short and still leave its own part in.
TINY_SETTINGS: dict[str, dict[str, Any]] = {
    "fat": {"taus": [0, 1], "milestones": [0.5]},
    "trades_awp": {"warmup": 0},
    "sparse": {"epochs": 1, "sparsity": 0.75, "method": "surgery"},
}


@pytest.mark.parametrize("kind", DEFENSES)
def test_every_defence_runs_from_data_to_attacks(tmp_path: Path, tiny: dict[str, Any], kind: str) -> None:
    tiny["pretrain"] |= {"epochs": 1, "steps": 1, "defense": {"kind": kind} | TINY_SETTINGS.get(kind, {})}
    tiny["attack"] |= {"ensemble": [1, 2]}
    experiments = ExperimentSet.model_validate(tiny).experiments()
    random = DEFENSES[kind].is_random
    assert len(experiments) == (4 if random else 2)
    store = Store(tmp_path)
    for experiment in experiments:
        entry = ensure("attack", experiment, store=store)
        results = read_json(entry.path / "results.json")
        assert 0 <= results["clean"]["value"] <= 1
        last = "finetune" if experiment.finetune else experiment.teacher
        folder = ensure(last, experiment, store=store).path
        weights = "model.safetensors" if experiment.finetune else "best.safetensors"
        model = load_model(folder, weights)
        assert bool(noise_streams(model)) == random == experiment.is_random
        assert bool(injected_layers(model)) == (experiment.finetune is not None)
        assert load_spec(folder).defense["kind"] == kind
        # the costs are those of the network that was attacked, for as many passes as it was asked for
        cost = bitops(model, (3, 16, 16))
        passes = experiment.attack.ensemble
        assert results["bitops"]["dense"] == cost.dense
        assert results["bitops"]["nominal"] == pytest.approx(passes * cost.total)
        if experiment.finetune is None:
            noise = cost.total / cost.dense
            assert noise == 1 or (noise > 1) == random or kind in ("sparse", "k_winners")


def experiments_of(tiny: dict[str, Any], **changes: Any) -> list[str]:
    for section, change in changes.items():
        tiny[section] |= change
    return [experiment.label for experiment in ExperimentSet.model_validate(tiny).experiments()]


def test_a_set_with_several_defences_has_the_noise_where_it_is_asked_for(tiny: dict[str, Any]) -> None:
    defenses = ["adversarial", {"kind": "trades", "beta": 1}, "rse_add", {"kind": "sparse", "sparsity": 0.9}]
    assert experiments_of(tiny, pretrain={"defense": defenses}) == [
        "dense",
        "ratio-0.9-clean",
        "trades-beta-1",
        "trades-beta-1-ratio-0.9-clean",
        "rse_add",
        "rse_add-ratio-0.9-clean",
        "sparse-sparsity-0.9",
        "sparse-sparsity-0.9-ratio-0.9-clean",
    ]
    wanted = {"defenses": ["adversarial"], "target": ["non_essential", "random"]}
    labels = experiments_of(
        tiny, finetune=wanted, distill={"randomize": ["fixed", "bank"]}, attack={"ensemble": [1, 10]}
    )
    assert labels == [
        "dense",
        "ratio-0.9-clean",
        "ratio-0.9-random-clean",
        "ratio-0.9-random-clean-ensemble-10",
        "ratio-0.9-bank-clean",
        "ratio-0.9-bank-clean-ensemble-10",
        "ratio-0.9-random-bank-clean",
        "ratio-0.9-random-bank-clean-ensemble-10",
        "trades-beta-1",
        "rse_add",
        "rse_add-ensemble-10",
        "sparse-sparsity-0.9",
    ]


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("pretrain", {"defense": "tradez"}, "unknown defence 'tradez'; did you mean 'trades'?"),
        ("pretrain", {"defense": {"kind": "trades", "betta": 1}}, "did you mean 'beta'?"),
        ("pretrain", {"defense": {"kind": "trades", "beta": "much"}}, "beta is 'much'"),
        (
            "pretrain",
            {"defense": {"kind": "trades", "beta": -1}},
            "beta is -1.0; expected",
        ),
        ("pretrain", {"defense": {"kind": "sparse", "epochs": 1.5}}, "epochs is 1.5"),
        ("pretrain", {"defense": {"kind": "fat", "taus": 3}}, "taus is 3"),
        ("pretrain", {"defense": [3]}, "expected the name of a defence, or a section with a `kind`, found 3"),
        ("pretrain", {"defense": []}, "defense: expected at least one value"),
        ("pretrain", {"defense": {"kind": ["trades"]}}, "expected the name of a defence"),
        ("pretrain", {"defense": {"kind": "trades", 1: 2}}, "expected names of settings of the defence"),
        ("pretrain", {"defense": {"kind": "fat", "taus": [10**30, 1, 2, 3]}}, "taus is"),
        ("pretrain", {"defense": {"kind": "pni", "alpha": 1e39}}, "alpha is 1e"),
        ("pretrain", {"defense": {"kind": "sap", "fraction": 1e300}}, "fraction is 1e"),
        ("distill", {"randomize": []}, "randomize: expected at least one value"),
        ("finetune", {"target": []}, "target: expected at least one value"),
        ("attack", {"ensemble": []}, "ensemble: expected at least one value"),
        ("pretrain", {"model": "resnet18", "defense": "robust_wrn"}, "unknown model to reduce for RobustWRN"),
        ("finetune", {"defenses": ["trades"]}, "unknown defence in finetune.defenses 'trades'"),
        ("attack", {"ensemble": 0}, "greater than or equal to 1"),
    ],
)
def test_wrong_choices_are_named_in_one_line(
    tiny: dict[str, Any], section: str, change: dict[str, Any], message: str
) -> None:
    tiny[section] |= change
    with pytest.raises(ValidationError) as caught:
        ExperimentSet.model_validate(tiny)
    [line] = describe(caught.value, ExperimentSet)
    assert message in line


def test_published_settings_are_written_out_so_that_keys_know_them(tiny: dict[str, Any]) -> None:
    tiny["pretrain"]["defense"] = "trades"
    implicit = ExperimentSet.model_validate(tiny).experiments()[0].pretrain
    tiny["pretrain"]["defense"] = {"kind": "trades", "beta": "6"}
    explicit = ExperimentSet.model_validate(tiny).experiments()[0].pretrain
    assert implicit == explicit
    assert json.loads(implicit.model_dump_json())["defense"] == {"kind": "trades", "beta": 6.0}
    assert implicit.defense.label == "trades"


def test_defences_that_start_trained_share_the_training(tmp_path: Path, tiny: dict[str, Any]) -> None:
    sparse = [{"kind": "sparse", "epochs": 1, "sparsity": share} for share in (0.5, 0.9)]
    tiny["pretrain"] |= {"epochs": 1, "defense": ["adversarial", *sparse]}
    tiny["finetune"]["ratio"] = []
    dense = ExperimentSet.model_validate(tiny).experiments()
    store = Store(tmp_path)
    attacks = [ensure("attack", experiment, store=store) for experiment in dense]
    keys = [sorted(entry.manifest.upstream) for entry in attacks]
    assert keys == [["prepare", "pretrain"]] + 2 * [["defend", "prepare"]]
    trained = {ensure("pretrain", experiment, store=store).manifest.key for experiment in dense}
    assert len(trained) == 1
    costs = [read_json(entry.path / "results.json")["bitops"] for entry in attacks]
    assert [cost["nominal"] / cost["dense"] for cost in costs] == pytest.approx([1, 0.5, 0.1], abs=0.15)


@pytest.mark.parametrize(
    ("kind", "choice", "change", "moved"),
    [
        ("rse_add", {"objective": "clean"}, {"steps": 9}, []),
        ("rse_add", {}, {"steps": 9}, ["pretrain", "attack"]),
        ("trades", {"beta": 0}, {"steps": 9}, []),
        ("sparse", {"base": "clean"}, {"steps": 9}, []),
        ("sparse", {}, {"steps": 9}, ["pretrain", "defend", "attack"]),
        ("sparse", {}, {"epochs": 9}, ["pretrain", "defend", "attack"]),  # of the network before it
        ("sparse", {"surgery_share": 0.1}, {}, []),
        ("sparse", {"method": "surgery", "surgery_share": 0.1}, {}, ["defend", "attack"]),
        ("sparse", {"epochs": 0, "learning_rate": 0.5}, {}, ["defend", "attack"]),  # another number of epochs
        ("sap", {"learning_rate": 0.5}, {}, []),
        ("sap", {"fraction": 0.5}, {}, ["defend", "attack"]),
    ],
)
def test_what_a_defence_does_not_read_moves_no_key(
    tiny: dict[str, Any], kind: str, choice: dict[str, Any], change: dict[str, Any], moved: list[str]
) -> None:
    def keys(settings: dict[str, Any]) -> dict[str, str]:
        tiny["pretrain"]["defense"] = {"kind": kind} | settings
        return stage_keys(ExperimentSet.model_validate(tiny).experiments()[0], "data")

    before = keys(choice if change else {"method": choice["method"]} if "method" in choice else {})
    tiny["pretrain"] |= change
    after = keys(choice)
    assert [stage for stage in before if before[stage] != after[stage]] == moved
