"""Grids: what ships has what the tables and figures need; mistakes in a file name themselves."""

import copy
import csv
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_experiment import TINY

from nenni_core.errors import InputError
from pipeline import grids
from pipeline.experiment import Experiment
from pipeline.graph import NodeId
from pipeline.grids import Grid, grid_names, load_grid
from pipeline.sweep_records import Asked
from pipeline.wanted import Wanted

ROOT = Path(__file__).resolve().parents[2]
PAPER = ["table1", "table2", "table3", "table4", "figure3", "figure4", "figure5", "adaptive", "sparse"]
METHODS = {
    "Overfitting Adversarial Training (Rice et al., 2020)": "adversarial",
    "RSE (Add) (Liu et al., 2018)": "rse_add",
    "RSE (Multiply) (Liu et al., 2018)": "rse_multiply",
    "Random Projection Filters (Dong & Xu, 2023)": "rpf",
}
RATIOS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99]


@pytest.fixture(scope="module")
def shipped() -> dict[str, Wanted]:
    return {name: Wanted(Asked(grid=name)) for name in grid_names()}


def experiments(wanted: Wanted) -> list[Experiment]:
    return [planned.experiment for planned in wanted.graph.plans]


def coordinates(experiment: Experiment) -> tuple[str, str, str, str]:
    """Data set, network, defence, and the noise as the paper's tables write it."""
    rule, noise = experiment.finetune, "dense"
    if rule is not None:
        noise = f"{rule.ratio:.0%}" if rule.ratio is not None else str(rule.pattern)
    return experiment.prepare.dataset, experiment.pretrain.model, experiment.pretrain.defense.kind, noise


def test_every_grid_says_what_it_is_for_and_has_stages(shipped: dict[str, Wanted]) -> None:
    assert set(PAPER) | {f"small-{name}" for name in PAPER} | {"smoke", "full"} == set(shipped)
    for name, wanted in shipped.items():
        assert len(wanted.grid.description) > 20, name
        assert len(wanted.graph.nodes) > 10, name
        assert wanted.grid.tracking.experiment == name


@pytest.mark.parametrize("table", ["table1", "table2", "table4"])
def test_rows_of_the_tables_are_in_their_grids(shipped: dict[str, Wanted], table: str) -> None:
    has = {coordinates(experiment) for experiment in experiments(shipped[table])}
    with (ROOT / "analysis" / "reference" / f"{table}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        dataset = row["dataset"].lower().replace("-", "")
        noise = row["method"].removeprefix("Noise Injection ").removeprefix("Ratio ").partition(" (")[0]
        kind, noise = (
            (METHODS[row["method"]], "dense") if row["method"] in METHODS else ("adversarial", noise)
        )
        assert (dataset, row["model"], kind, noise) in has
    assert {row["model"] for row in rows} == {model for _, model, _, _ in has}


@pytest.mark.parametrize("table", ["table1", "table2", "table3", "table4"])
def test_columns_of_the_tables_are_attacks_of_their_grids(shipped: dict[str, Wanted], table: str) -> None:
    columns = ["pgd20", "fgsm", "mifgsm", "autoattack"]
    for experiment in experiments(shipped[table]):
        assert {
            name for column in columns for name in experiment.attack.attacks if name.startswith(column)
        } >= {
            "pgd20",
            "fgsm",
            "mifgsm",
        }
        kinds = {attack.kind for attack in experiment.attack.attacks.values()}
        assert any(kind.startswith("autoattack") for kind in kinds)
        assert "cw" in kinds


def test_table3_has_the_best_known_trainings(shipped: dict[str, Wanted]) -> None:
    has = {coordinates(experiment) for experiment in experiments(shipped["table3"])}
    rivals = ["adversarial", "trades", "fat", "awp", "robust_wrn", "rpf"]
    for dataset in ("cifar10", "cifar100"):
        assert {(dataset, "wrn34_10", kind, "dense") for kind in rivals} <= has
        assert {(dataset, "wrn34_10", "adversarial", noise) for noise in ("90%", "99%")} <= has


def test_figure3_is_pgd_over_radius_and_steps(shipped: dict[str, Wanted]) -> None:
    wanted = {(round(eps / 255, 6), steps) for eps in (8, 12, 16) for steps in (10, 20, 50, 100)}
    for experiment in experiments(shipped["figure3"]) + experiments(shipped["small-figure3"]):
        pgd = [attack for attack in experiment.attack.attacks.values() if attack.kind == "pgd"]
        assert wanted <= {(round(attack.eps, 6), attack.steps) for attack in pgd}
    networks = {
        (dataset, noise) for dataset, _, _, noise in map(coordinates, experiments(shipped["figure3"]))
    }
    assert networks == {(d, n) for d in ("cifar10", "cifar100") for n in ("dense", "90%", "99%")}


def test_figure4_is_every_amount_of_noise_in_every_kind_of_neuron(shipped: dict[str, Wanted]) -> None:
    rules = {
        (e.prepare.dataset, e.finetune.ratio, e.finetune.target)
        for e in experiments(shipped["figure4"])
        if e.finetune is not None
    }
    targets = ("non_essential", "essential", "random")
    assert rules == {(d, r, t) for d in ("cifar10", "cifar100") for r in RATIOS for t in targets}


def test_figure5_is_the_accelerator_alone(shipped: dict[str, Wanted]) -> None:
    graph = shipped["figure5"].graph
    assert "attack" not in graph.count()
    assert {name.stage for name in graph.last} == {"simulate"}
    has = {(model, noise) for _, model, _, noise in map(coordinates, experiments(shipped["figure5"]))}
    patterns = [f"{noisy}:8" for noisy in range(1, 8)]
    noises = [f"{ratio:.0%}" for ratio in RATIOS] + patterns
    assert has == {(model, noise) for model in ("resnet18", "wrn34_10") for noise in noises}


def test_the_full_grid_holds_all_of_the_paper(shipped: dict[str, Wanted]) -> None:
    full = shipped["full"].graph
    for name in PAPER:
        assert shipped[name].graph.nodes.keys() <= full.nodes.keys(), name
        assert shipped[name].graph.last <= full.last, name


def test_small_grids_are_on_cifar10_alone_and_small(shipped: dict[str, Wanted]) -> None:
    for name, wanted in shipped.items():
        if name.startswith("small-"):
            assert {e.prepare.dataset for e in experiments(wanted)} == {"cifar10"}
            assert all((e.prepare.train_images or 50_000) <= 6000 for e in experiments(wanted)), name
            assert len(wanted.graph.nodes) < len(shipped["full"].graph.nodes)


def test_grids_share_the_stages_that_they_have_in_common(shipped: dict[str, Wanted]) -> None:
    def trained(name: str) -> set[NodeId]:
        return {
            NodeId("pretrain", planned.keys["pretrain"])
            for planned in shipped[name].graph.plans
            if planned.experiment.pretrain.defense.kind == "adversarial"
        }

    assert len(trained("table1")) == 2  # one for each data set
    assert trained("table1") == trained("figure3") == trained("figure4") == trained("table4")
    assert trained("table2") < trained("table3")
    assert trained("adaptive") < trained("table1")


# --- files of users -------------------------------------------------------------------------------


def write(folder: Path, name: str = "own.yaml", **parts: Any) -> str:
    path = folder / name
    path.write_text(yaml.safe_dump(copy.deepcopy(TINY) | parts))
    return str(path)


def labels(grid: Grid) -> list[tuple[int, str, str]]:
    return [(c.experiment.seed, c.experiment.pretrain.model, c.experiment.label) for c in grid.cells]


def test_axes_are_every_combination(tmp_path: Path) -> None:
    axes = {"seed": [0, 1, 2], "pretrain.model": ["small_resnet", "resnet18"], "attack.images": [4, 8]}
    found = load_grid(write(tmp_path, axes=axes)).cells
    assert len(found) == 3 * 2 * 2 * 2
    combinations = {
        (c.experiment.seed, c.experiment.pretrain.model, c.experiment.attack.images) for c in found
    }
    assert len(combinations) == 3 * 2 * 2


def test_options_replace_axes(tmp_path: Path) -> None:
    path = write(tmp_path, axes={"seed": [0, 1, 2], "pretrain.epochs": [1, 2]})
    found = load_grid(path, seeds=range(5), override={"pretrain.epochs": 7, "tracking.experiment": "mine"})
    assert [cell.experiment.seed for cell in found.cells] == [s for s in range(5) for _ in range(2)]
    assert {cell.experiment.pretrain.epochs for cell in found.cells} == {7}
    assert found.tracking.experiment == "mine"
    [one, _] = load_grid(path, override={"seed": 9, "pretrain.epochs": 1}).cells
    assert one.experiment.seed == 9


def test_data_are_where_the_option_says_for_workers_in_other_folders_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path)
    there = str(tmp_path / "x")
    assert {c.experiment.prepare.path for c in load_grid(path, data={"synthetic": "x"}).cells} == {there}
    assert {c.experiment.prepare.path for c in load_grid(path, data={"cifar10": "here"}).cells} == {None}
    own = write(tmp_path, prepare=TINY["prepare"] | {"path": "x"})
    assert {c.experiment.prepare.path for c in load_grid(own).cells} == {there}


def test_extends_blocks_and_includes(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", tracking={"experiment": "base", "system_metrics": ["attack"]})
    blocks = [{"finetune": {"ratio": [0.5]}}, {"axes": {"seed": [4, 5]}, "until": "pretrain"}]
    own = {"extends": "base.yaml", "description": "mine", "blocks": blocks}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(own))
    grid = load_grid(str(tmp_path / "own.yaml"))
    noisy = [c.experiment.finetune.ratio for c in grid.cells if c.experiment.finetune is not None]
    assert noisy == [0.5, 0.9, 0.9]
    assert [(c.experiment.seed, c.until) for c in grid.cells[2:]] == [
        (seed, ("pretrain",)) for seed in (4, 4, 5, 5)
    ]
    assert grid.description == "mine"
    assert (grid.tracking.experiment, grid.tracking.system_metrics) == ("own", ("attack",))
    (tmp_path / "both.yaml").write_text(yaml.safe_dump({"include": ["own.yaml", "base.yaml"]}))
    both = load_grid(str(tmp_path / "both.yaml"))
    assert labels(both) == labels(grid) + labels(load_grid(str(tmp_path / "base.yaml")))
    assert both.tracking.experiment == "both"


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"pretrian": {}}, "unknown key 'pretrian'; did you mean 'pretrain'?"),
        ({"extends": "tabel1"}, "unknown grid 'tabel1'; did you mean 'table1'?"),
        ({"include": "tabel1"}, "unknown grid 'tabel1'; did you mean 'table1'?"),
        ({"include": "no.yaml"}, "cannot read the parameter file"),
        ({"include": "own.yaml"}, "it names itself"),
        ({"extends": "own.yaml"}, "it names itself"),
        ({"axes": {"pretain.model": ["resnet18"]}}, "unknown section 'pretain'; did you mean 'pretrain'?"),
        ({"axes": {"pretrain.modle": ["resnet18"]}}, "did you mean 'pretrain.model'?"),
        ({"axes": {"seed.x": [1]}}, "unknown key 'seed.x'; did you mean 'seed'?"),
        ({"axes": {"pretrain": [{}]}}, "unknown key 'pretrain'"),
        ({"axes": {"seed": []}}, "axes.seed: expected a list of values, found []"),
        ({"axes": {"seed": 3}}, "axes.seed"),
        ({"axes": [1]}, "axes: expected"),
        ({"axes": {"seed": [0, -1]}}, "seed: expected greater than or equal to 0, found -1"),
        ({"axes": {"seed": [0, "two"]}}, "seed: expected a number such as 0.1 or 8/255, found 'two'"),
        ({"axes": {"prepare.dataset": ["cifar11"]}}, "unknown dataset 'cifar11'; did you mean 'cifar10'?"),
        (
            {"axes": {"pretrain.model": ["resnet18", "resnet81"]}},
            "pretrain.model=resnet81: pretrain.model: unknown model 'resnet81'; did you mean 'resnet18'?",
        ),
        ({"axes": {"pretrain.epochs": [*range(2000)], "seed": [*range(1000)]}}, "2000000 combinations"),
        ({"axes": {"pretrain.defense": ["robust_wrn"], "pretrain.model": ["resnet18"]}}, "'resnet18'"),
        ({"pretrain": "fast", "axes": {"pretrain.epochs": [1]}}, "pretrain: expected a section with keys"),
        ({"prepare": "cifar10"}, "prepare: expected a section with keys, found 'cifar10'"),
        ({"tracking": 5}, "tracking: expected a section with keys, found 5"),
        ({"blocks": [{"until": "atack"}]}, "block 1: until.0: unknown value 'atack'; did you mean 'attack'?"),
        ({"blocks": [{}, {"atack": {}}]}, "block 2: unknown key 'atack'; did you mean 'attack'?"),
        ({"until": "simulate"}, "no experiment has one of the stages of `until`"),
        ({"description": 7}, "description: expected"),
        (
            {"attack": {"attacks": {"pgd": {"kind": "pgd", "steps": [1, 2]}}}},
            "attacks.pgd.steps is a list; expected a name that says where its values go, such as pgd_{steps}",
        ),
        (
            {"attack": {"attacks": {"a{steps}": {"kind": "pgd", "steps": [1]}, "a1": {"kind": "fgsm"}}}},
            "two attacks are called 'a1'",
        ),
        ({"attack": {"attacks": {"a{steps}": {"kind": "pgd", "steps": []}}}}, "at least one value"),
    ],
)
def test_mistakes_in_a_file_are_one_line(tmp_path: Path, parts: dict[str, Any], expected: str) -> None:
    path = write(tmp_path, **parts)
    with pytest.raises(InputError) as mistake:
        load_grid(path)
    assert expected in str(mistake.value)
    assert len(str(mistake.value).splitlines()) == 1


def test_axes_without_sections_would_be_for_nothing(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump({"include": ["smoke"], "axes": {"seed": [0, 1]}}))
    with pytest.raises(InputError, match=r"own.yaml: no experiments of its own: .* without `axes:`"):
        load_grid(str(path))
    path.write_text("description: nothing\n")
    with pytest.raises(InputError, match="expected sections such as"):
        load_grid(str(path))


def test_a_circle_through_two_files_is_named(tmp_path: Path) -> None:
    write(tmp_path, "one.yaml", include="two.yaml")
    write(tmp_path, "two.yaml", include="one.yaml")
    with pytest.raises(InputError, match=r"one.yaml: it names itself, through .*one.yaml and .*two.yaml"):
        load_grid(str(tmp_path / "one.yaml"))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"override": {"pretrain.epoch": 1}}, "did you mean 'pretrain.epochs'?"),
        ({"override": {"prepare.dataset": "cifar"}}, "unknown dataset 'cifar'; did you mean 'cifar10'?"),
        ({"data": {"cifar-10": "here"}}, "unknown data set 'cifar-10'; did you mean 'cifar10'?"),
    ],
)
def test_mistakes_in_options_are_one_line(tmp_path: Path, options: dict[str, Any], expected: str) -> None:
    with pytest.raises(InputError) as mistake:
        load_grid(write(tmp_path), **options)
    assert expected in str(mistake.value)


def test_grids_that_ship_are_named_only_by_their_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(grids, "GRIDS", tmp_path)
    write(tmp_path, "mine.yaml")
    assert grid_names() == ["mine"]
    assert load_grid("mine").name == "mine"
    with pytest.raises(InputError, match="unknown grid 'table1'; known: mine"):
        load_grid("table1")
