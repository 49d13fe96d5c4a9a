"""`python -m pipeline.sweep` before anything runs: options, mistakes, the look ahead."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from pipeline.sweep import app
from pipeline.sweep_records import Asked, SweepFolder
from pipeline.wanted import Wanted, from_anywhere


@pytest.fixture
def grid(tmp_path: Path, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yaml").write_text(
        yaml.safe_dump(tiny | {"axes": {"seed": [0, 1]}, "description": "two seeds"})
    )
    return "own.yaml"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("", "expected --grid with one of adaptive, figure3,"),
        ("--grid smok", "unknown grid 'smok'; did you mean 'smoke'?"),
        ("--grid none.yaml", "cannot read the parameter file 'none.yaml'"),
        (
            "--grid own.yaml --where modle=resnet18",
            "unknown coordinate in --where 'modle'; did you mean 'model'?",
        ),
        ("--grid own.yaml --where model=resnet18", "did you mean 'small_resnet'?"),
        ("--grid own.yaml --set pretrain.epoch=3", "unknown key 'pretrain.epoch'; did you mean"),
        ("--grid own.yaml --set pretrain.epochs", "--set 'pretrain.epochs': expected name=value"),
        ("--grid own.yaml --set pretrain.epochs=many", "pretrain.epochs: expected a number"),
        ("--grid own.yaml --set pretrain.epochs={", "--set ...={"),
        ("--grid own.yaml --data =here", "--data '=here': expected name=value"),
        ("--grid own.yaml --data cifar=here", "unknown data set 'cifar'; did you mean"),
        ("--grid own.yaml --resources atack=cpus:2", "did you mean 'attack'?"),
        ("--grid own.yaml --resources attack=cpus:nan", "cpus is nan"),
        ("--grid own.yaml --budget soon", "'soon' is no duration; expected something like 90s, 30min or 2h"),
        ("--grid own.yaml --dry-run --time-limit 0", "'0' is no duration"),
        ("--grid own.yaml 2026", "'2026': expected --resume beside the name of a sweep"),
        ("--resume --grid own.yaml", "expected no --grid beside it"),
        ("--resume", "--resume: no sweep of the store 'store' is left to resume"),
        ("--resume 2026", "--resume 2026: there are no sweeps in the store 'store'"),
        ("--grid own.yaml --device cpuu", "device 'cpuu' cannot be used here"),
        ("--grid own.yaml --device cpu --store own.yaml/below", "own.yaml/below': Not a directory"),
    ],
)
def test_mistakes_are_one_line_and_status_2(grid: str, arguments: str, expected: str) -> None:
    done = CliRunner().invoke(app, arguments.split())
    assert done.exit_code == 2, done.output
    [line] = done.output.splitlines()
    assert line.startswith("error: ")
    assert expected in line
    assert not Path("store").exists()


def test_a_store_that_is_read_only_is_refused_before_anything_starts(
    grid: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)  # what root is told of a read-only disk
    done = CliRunner().invoke(app, ["--grid", grid, "--device", "cpu"])
    assert done.exit_code == 2
    assert "is read-only; expected a folder that can be written to" in done.output


def test_a_dry_run_says_what_would_be_computed_and_computes_nothing(grid: str) -> None:
    done = CliRunner().invoke(app, ["--grid", grid, "--dry-run", "--seeds", "3", "--device", "cpu"])
    assert done.exit_code == 0, done.output
    stages = Wanted(Asked(grid=grid, seeds=3)).graph
    assert "own: two seeds" in done.output
    assert f"6 experiments, {len(stages.nodes)} stages; nothing is computed now" in done.output
    rows = {line.split()[0]: line.split() for line in done.output.splitlines() if line.strip()}
    for stage, number in stages.count().items():
        assert rows[stage][1:4] == [str(number), "0", str(number)]
    assert rows["all"][1:4] == [str(len(stages.nodes)), "0", str(len(stages.nodes))]
    assert "never measured" in done.output
    assert "Longest path" not in done.output  # it would be that of the few stages with an estimate
    assert not Path("store").exists()


def test_a_sweep_whose_grid_has_changed_is_not_resumed(grid: str, tiny: dict[str, Any]) -> None:
    asked = Asked(grid=grid)
    SweepFolder.create(Path("store"), asked, Wanted(asked).digest, pytest.fail)
    done = CliRunner().invoke(app, ["--resume", "--dry-run", "--device", "cpu"])
    assert (done.exit_code, "going on with" in done.output) == (0, True)
    tiny["pretrain"]["epochs"] = 9
    Path(grid).write_text(yaml.safe_dump(tiny))
    done = CliRunner().invoke(app, ["--resume"])
    assert done.exit_code == 2
    assert "gives other stages than then; start it anew with --grid" in done.output


def test_a_sweep_is_resumed_from_another_folder(
    grid: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "archive"
    asked = from_anywhere(Asked(grid=grid, data={"cifar10": archive.name}))
    assert asked.data == {"cifar10": str(archive)}
    SweepFolder.create(Path("store"), asked, Wanted(asked).digest, pytest.fail)
    monkeypatch.chdir(tmp_path.parent)
    store = str(tmp_path / "store")
    done = CliRunner().invoke(app, ["--resume", "--store", store, "--dry-run", "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert from_anywhere(Asked(grid="smoke")) == Asked(grid="smoke")
