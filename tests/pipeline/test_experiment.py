"""Parameter files: expansion into experiments, and one clear line per mistake."""

from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel, ValidationError

from nenni_core.attacks import AttackSpec
from nenni_core.defenses.adversarial_training import OBJECTIVES
from nenni_core.distill import SOLVERS
from nenni_core.injection import Injection
from nenni_core.training import Recipe
from nenni_core.training.recipe import PRECISIONS, SCHEDULES
from pipeline.config import AttackConfig, Distill, FineTune, Pretrain, Training
from pipeline.experiment import ExperimentSet, load_parameters
from pipeline.problems import describe
from pipeline.values import read_yaml


def problems(content: dict[str, Any]) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        ExperimentSet.model_validate(content)
    return describe(caught.value, ExperimentSet)


def test_lists_expand_to_complete_experiments(tiny: dict[str, Any]) -> None:
    tiny["finetune"] |= {"ratio": [0.5, 0.9], "pattern": ["4:8"], "objective": ["clean", "adversarial"]}
    experiments = ExperimentSet.model_validate(tiny).experiments()
    assert [experiment.label for experiment in experiments] == [
        "dense",
        "ratio-0.5-clean",
        "ratio-0.5-adversarial",
        "ratio-0.9-clean",
        "ratio-0.9-adversarial",
        "pattern-4:8-clean",
        "pattern-4:8-adversarial",
    ]
    assert experiments[0].finetune is None
    assert experiments[0].stages == ("prepare", "pretrain", "attack")
    for experiment in experiments[1:]:
        assert experiment.finetune is not None
        assert (experiment.finetune.ratio is None) != (experiment.finetune.pattern is None)
        assert experiment.finetune.batch_size == 12
        assert experiment.stages[-2:] == ("finetune", "attack")


def test_one_value_stands_for_a_list_of_one(tiny: dict[str, Any]) -> None:
    tiny["finetune"] |= {"ratio": 0.99, "pattern": None, "objective": "adversarial", "dense": False}
    [experiment] = ExperimentSet.model_validate(tiny).experiments()
    assert experiment.label == "ratio-0.99-adversarial"


def test_repeated_values_make_one_experiment(tiny: dict[str, Any]) -> None:
    tiny["finetune"] |= {"ratio": [0.9, 0.9, "9/10"], "pattern": ["4:8", "04:8"]}
    labels = [e.label for e in ExperimentSet.model_validate(tiny).experiments()]
    assert labels == ["dense", "ratio-0.9-clean", "pattern-4:8-clean"]


def test_layers_own_ratios_are_variants_with_names(tiny: dict[str, Any]) -> None:
    own = {"cheap": {"conv": 0.99, "last": "9/10"}, "same": {"last": 0.9, "conv": 0.99}, "dear": {"conv": 0}}
    tiny["finetune"] |= {"pattern": ["4:8"], "layer_ratios": own, "objective": ["clean", "adversarial"]}
    experiments = ExperimentSet.model_validate(tiny).experiments()
    assert [experiment.label for experiment in experiments[5:]] == [
        "layers-cheap-clean",
        "layers-cheap-adversarial",
        "layers-dear-clean",
        "layers-dear-adversarial",
    ]
    rule = experiments[5].finetune
    assert rule is not None
    assert (rule.ratio, rule.pattern, rule.layer_ratios) == (None, None, {"conv": 0.99, "last": 0.9})


@pytest.mark.parametrize(
    ("rules", "found"),
    [
        ({}, "none"),
        ({"ratio": 0.9, "pattern": "4:8"}, "ratio and pattern"),
        ({"ratio": 0.9, "layer_ratios": {"conv": 0.5}, "layer_ratios_name": "a"}, "ratio and layer_ratios"),
    ],
)
def test_a_variant_has_one_rule(rules: dict[str, Any], found: str) -> None:
    with pytest.raises(ValidationError) as caught:
        FineTune(**rules)
    [line] = describe(caught.value, FineTune)
    assert line == f"a variant has one of ratio, pattern and layer_ratios; found {found}"


def test_configuration_is_frozen(tiny: dict[str, Any]) -> None:
    experiment = ExperimentSet.model_validate(tiny).experiments()[0]
    with pytest.raises(ValidationError, match="frozen"):
        experiment.seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("section", "change", "expected"),
    [
        ("finetune", {"ratoi": 0.9}, "unknown key 'finetune.ratoi'; did you mean 'ratio'?"),
        ("pretrain", {"epoch": 3}, "unknown key 'pretrain.epoch'; did you mean 'epochs'?"),
        ("pretrain", {"model": "resnet81"}, "did you mean 'resnet18'?"),
        ("prepare", {"dataset": "cifra10"}, "did you mean 'cifar10'?"),
        ("finetune", {"objective": ["adversarail"]}, "did you mean 'adversarial'?"),
        ("distill", {"solver": "least_square"}, "did you mean 'least_squares'?"),
        (
            "pretrain",
            {"epochs": "ten"},
            "pretrain.epochs: expected a number such as 0.1 or 8/255, found 'ten'",
        ),
        ("pretrain", {"epochs": 0}, "pretrain.epochs: expected greater than 0, found 0"),
        ("pretrain", {"epochs": True}, "pretrain.epochs: expected a number, found true"),
        ("pretrain", {"eps": "300/255"}, "pretrain.eps: expected less than or equal to 1"),
        ("pretrain", {"flip": 3}, "pretrain.flip: expected"),
        ("finetune", {"ratio": [0.9, 1.5]}, "finetune.ratio.1: expected less than or equal to 1, found 1.5"),
        ("finetune", {"pattern": "8"}, "finetune.pattern.0: pattern '8' is not of the form"),
        ("finetune", {"pattern": ["9:8"]}, "noise in 9 of 8"),
        ("finetune", {"pattern": "1:2", "selection": "threshold"}, "finetune: selection 'threshold'"),
        ("finetune", {"ratio": [], "dense": False}, "finetune: nothing to do"),
        (
            "finetune",
            {"layer_ratios": {"a": {"conv": 2}}},
            "finetune.layer_ratios.a.conv: expected less than or equal to 1, found 2",
        ),
        ("finetune", {"layer_ratios": {"a": {}}}, "finetune.layer_ratios.a: expected"),
        ("finetune", {"layer_ratios": {"A b": {"conv": 1}}}, "'A b' is not made of a-z, 0-9 and _"),
        ("finetune", {"layer_ratios": [0.5]}, "finetune.layer_ratios: expected a section"),
        ("finetune", {"objective": []}, "finetune: objective: expected at least one"),
        ("attack", {"attacks": {}}, "attack.attacks"),
        ("attack", {"attacks": {"PGD-20": {"kind": "pgd"}}}, "'PGD-20' is not made of a-z, 0-9 and _"),
        ("attack", {"attacks": {"clean": {"kind": "pgd"}}}, "'clean' is a column of its own"),
        (
            "attack",
            {"attacks": {"pgd20": {"kind": "pdg"}}},
            "attack.attacks.pgd20.kind: unknown attack 'pdg'; did you mean 'pgd'?",
        ),
        (
            "attack",
            {"attacks": {"pgd20": {"kind": "pgd", "step": 1}}},
            "unknown key 'attack.attacks.pgd20.step'; did you mean 'steps'?",
        ),
        ("attack", {"attacks": {"pgd20": None}}, "attack.attacks.pgd20: expected a section"),
    ],
)
def test_mistakes_are_named_in_one_line(
    tiny: dict[str, Any], section: str, change: dict[str, Any], expected: str
) -> None:
    tiny[section] |= change
    [line] = problems(tiny)
    assert expected in line
    assert "\n" not in line


def test_every_problem_gets_its_line(tiny: dict[str, Any]) -> None:
    del tiny["prepare"]["validation_images"]
    tiny["distil"] = tiny.pop("distill")
    tiny["seed"] = -1
    lines = problems(tiny)
    assert len(lines) == 4
    assert any("missing key 'prepare.validation_images'" in line for line in lines)
    assert any("unknown key 'distil'; did you mean 'distill'?" in line for line in lines)
    assert any("missing key 'distill'" in line for line in lines)
    assert any(line.startswith("seed: ") for line in lines)


def choices_of(model: type[BaseModel], field: str) -> set[str]:
    return set(get_args(model.model_fields[field].annotation))


def test_sections_agree_with_the_records_that_they_fill() -> None:
    """A field or a choice added in `nenni_core` must not be missing here."""
    recipe = Recipe.__dataclass_fields__
    assert set(recipe) == set(Training.model_fields)
    injection = Injection.__dataclass_fields__
    decided_elsewhere = {"gradient", "seed"}
    assert set(injection) - decided_elsewhere <= {*FineTune.model_fields, *Distill.model_fields}
    assert set(AttackSpec.__dataclass_fields__) == {*AttackConfig.model_fields, "name"}
    for ours, theirs, names in (
        (FineTune, Injection, ("selection", "score", "target")),
        (Distill, Injection, ("scale", "randomize")),
        (AttackConfig, AttackSpec, ("gradient",)),
    ):
        for name in names:
            choices = theirs.__dataclass_fields__[name].type
            assert choices_of(ours, name) == set(get_args(choices)), name
    assert choices_of(Pretrain, "schedule") == set(SCHEDULES)
    assert choices_of(Pretrain, "precision") == set(PRECISIONS)
    assert choices_of(FineTune, "objective") == set(OBJECTIVES)
    assert choices_of(Distill, "solver") == set(SOLVERS)


def test_every_field_says_what_it_is() -> None:
    def undescribed(model: Any, path: str) -> list[str]:
        found = []
        for name, field in model.model_fields.items():
            inner = field.annotation
            if hasattr(inner, "model_fields"):
                found += undescribed(inner, f"{path}.{name}")
            elif not field.description:
                found.append(f"{path}.{name}")
        return found

    assert undescribed(ExperimentSet, "") == []
    assert undescribed(AttackConfig, "") == []


ROOT = Path(__file__).resolve().parents[2]
FOR_DVC = [ROOT / "params.yaml", ROOT / "paper" / "params.yaml"]
OTHERS = sorted((ROOT / "small").glob("*.yaml"))


@pytest.mark.parametrize("path", FOR_DVC + OTHERS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_our_own_parameter_files_are_valid(path: Path) -> None:
    assert load_parameters(path).experiments()


@pytest.mark.parametrize("path", FOR_DVC, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_parameter_files_for_dvc_are_complete(path: Path) -> None:
    """`dvc exp run -S` and DVC's tables know only the keys that are written down."""
    written = read_yaml(path)
    assert set(written) == set(ExperimentSet.model_fields)
    for section, field in ExperimentSet.model_fields.items():
        if hasattr(field.annotation, "model_fields"):
            assert set(written[section]) == set(field.annotation.model_fields), section


def test_attacks_come_after_those_whose_survivors_they_attack(tiny: dict[str, Any]) -> None:
    tiny["attack"]["attacks"] = {
        "a_last": {"kind": "square", "survivors_of": ["middle", "zero"]},
        "middle": {"kind": "apgd_ce", "survivors_of": ["zero"]},
        "zero": {"kind": "fgsm"},
    }
    [*_, experiment] = ExperimentSet.model_validate(tiny).experiments()
    assert [spec.name for spec in experiment.attack.specifications()] == ["zero", "middle", "a_last"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"survivors_of": ["nobody"]}, "attacks.fgsm.survivors_of is ['nobody']; expected names of attacks"),
        ({"eot_samples": 5}, "attacks.fgsm.eot_samples is 5; expected 1"),
        ({"step_size": 0}, "step_size is 0.0, expected (0, 1]"),
        ({"steps": 0}, "attack.attacks.fgsm.steps: expected greater than or equal to 1"),
    ],
)
def test_attacks_that_cannot_be_are_refused_at_once(
    tiny: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    tiny["attack"]["attacks"]["fgsm"] |= change
    with pytest.raises(ValidationError) as error:
        ExperimentSet.model_validate(tiny)
    [line] = describe(error.value, ExperimentSet)
    assert message in line


def test_a_huge_value_does_not_make_a_huge_message(tiny: dict[str, Any]) -> None:
    tiny["seed"] = [["x" * 100] * 100] * 100
    with pytest.raises(ValidationError) as error:
        ExperimentSet.model_validate(tiny)
    [line] = describe(error.value, ExperimentSet)
    assert line.startswith("seed: expected")
    assert len(line) <= 300
