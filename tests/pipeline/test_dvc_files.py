"""dvc.yaml and paper/dvc.yaml: they agree with each other, with the code, and with the keys."""

import ast
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_experiment import TINY

from pipeline.experiment import STAGES, ExperimentSet
from pipeline.keys import upstream

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("nenni_core", "pipeline", "analysis", "hwsim")


def stages(name: str) -> dict[str, dict[str, Any]]:
    return yaml.safe_load((ROOT / name).read_text())["stages"]


def names(entries: list[Any]) -> list[str]:
    """Paths of deps or outs, which may come with options."""
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


def default_path(path: str) -> str:
    """A path of the paper's pipeline, where the default one has it."""
    return path.replace("/paper/", "/") if path.count("/") > 1 else path.replace("/paper", "")


def test_the_papers_pipeline_is_the_default_one_with_other_paths() -> None:
    default, paper = stages("dvc.yaml"), stages("paper/dvc.yaml")
    assert list(default) == list(paper)
    for name, stage in default.items():
        other = paper[name]
        assert stage["desc"] == other["desc"]
        assert sorted(map(default_path, names(other["deps"]))) == sorted(names(stage["deps"])), name
        [(file, keys)] = other["params"][0].items()
        assert (file, keys) == ("paper/params.yaml", stage["params"])
        outs = names(stage["outs"]) + names(stage.get("metrics", []))
        if name != "report":  # DVC lets no out, the folder reports/, have another one in it
            assert sorted(map(default_path, names(other["outs"]))) == sorted(outs), name
        commands = [one["cmd"] if isinstance(one["cmd"], list) else [one["cmd"]] for one in (stage, other)]
        modules = [[command.split()[:3] for command in both] for both in commands]
        assert modules[0] == modules[1]
        assert all("--params paper/params.yaml" in command for command in commands[1])


@pytest.mark.parametrize("file", ["dvc.yaml", "paper/dvc.yaml"])
def test_stages_depend_on_the_code_they_run(file: str) -> None:
    def imported(package: str) -> set[str]:
        found = {package}
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                found |= {module.partition(".")[0] for module in modules}
        return found & set(PACKAGES)

    for name, stage in stages(file).items():
        needed = set().union(
            *(imported(package) for package in imported(PACKAGES[2 if name == "report" else 1]))
        )
        assert needed <= set(names(stage["deps"])), name


@pytest.mark.parametrize("file", ["dvc.yaml", "paper/dvc.yaml"])
def test_stages_are_chained_as_their_keys_are(file: str) -> None:
    """What a stage reads, directly or through others, comes before it in DVC too."""
    experiments = ExperimentSet.model_validate(TINY).experiments()
    outs = {out: name for name, stage in stages(file).items() for out in names(stage["outs"])}
    before: dict[str, set[str]] = {}
    for name, stage in stages(file).items():
        direct = {outs[path] for path in names(stage["deps"]) if path in outs}
        before[name] = direct.union(*(before[other] for other in direct))
    for stage_name in STAGES:
        for experiment in experiments:
            if stage_name in experiment.stages:
                assert set(upstream(stage_name, experiment)) <= before[stage_name]
    assert before["report"] == set(STAGES)
