"""`python -m pipeline.store`: what it lists, finds damaged, and removes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from stored_stages import plans_of, store_set
from typer.testing import CliRunner, Result

from pipeline import tracking_commands
from pipeline.store import Store
from pipeline.store_commands import app


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture
def filled(tmp_path: Path, tiny: dict[str, Any]) -> Store:
    store, _ = store_set(tmp_path / "store", tiny)
    store.begin("distill", "f" * 64)
    return store


def test_ls_shows_what_is_finished_and_what_was_begun(filled: Store) -> None:
    result = call("ls", "--store", str(filled.root))
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert len(lines) == 1 + 6 + 1
    for stage, key in filled.names():
        [line] = [line for line in lines if key[:12] in line]
        assert line.split() == [stage, key[:12], "0.0", "1.5", "ddddddddd"]
    assert lines[-1].split() == ["distill", "ffffffffffff", "unfinished"]


def test_ls_points_at_damage(filled: Store) -> None:
    stage, key = filled.names()[0]
    (filled.entry_path(stage, key) / "manifest.json").write_text("{")
    assert "damaged: run `verify`" in call("ls", "--store", str(filled.root)).stdout


def test_verify_finds_damage_and_sets_it_aside(filled: Store) -> None:
    clean = call("verify", "--store", str(filled.root))
    assert (clean.exit_code, clean.stderr) == (0, "6 of 6 entries are as they were written\n")
    stage, key = filled.names()[1]
    (filled.entry_path(stage, key) / "model.safetensors").write_bytes(b"weightz")
    damaged = call("verify", "--store", str(filled.root))
    assert damaged.exit_code == 1
    assert (
        f"{stage} {key[:12]} cannot be used: it is damaged (model.safetensors is not what was written)"
        in damaged.stderr
    )
    assert "5 of 6" in damaged.stderr
    assert call("verify", "--store", str(filled.root)).exit_code == 0


def test_gc_keeps_what_the_files_describe(filled: Store, tmp_path: Path, tiny: dict[str, Any]) -> None:
    tiny["finetune"]["ratio"] = []
    (tmp_path / "params.yaml").write_text(json.dumps(tiny))
    arguments = ["gc", "--params", str(tmp_path / "params.yaml"), "--store", str(filled.root)]
    planned = call(*arguments)
    assert len(filled.names()) == 6
    removed = call(*arguments, "--delete")
    assert removed.exit_code == planned.exit_code == 0
    *would_go, hint = planned.stderr.splitlines()
    assert [line.removeprefix("would remove ") for line in would_go] == [
        line.removeprefix("removed ") for line in removed.stderr.splitlines()
    ]
    assert len(would_go) == 4
    assert "--delete" in hint
    [dense] = plans_of(tiny)
    assert dict(filled.names()) == dense.keys
    assert filled.unfinished() == []


def test_gc_wants_to_know_what_to_keep(filled: Store, tmp_path: Path) -> None:
    assert call("gc", "--store", str(filled.root)).exit_code == 2
    (tmp_path / "params.yaml").write_text("seed: 0\n")
    wrong = call("gc", "--params", str(tmp_path / "params.yaml"), "--store", str(filled.root))
    assert wrong.exit_code == 2
    assert "missing key 'prepare'" in wrong.stderr
    assert len(filled.names()) == 6


def test_without_a_store_it_says_so(tmp_path: Path) -> None:
    for command in (["ls"], ["verify"]):
        result = call(*command, "--store", str(tmp_path / "nowhere"))
        assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
        assert "there is no store" in result.stderr
    result = CliRunner().invoke(
        tracking_commands.app, ["sync", "--params", "params.yaml", "--store", str(tmp_path / "x")]
    )
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)


@pytest.mark.slow
def test_it_is_a_command(filled: Store) -> None:
    command = [sys.executable, "-m", "pipeline.store", "verify", "--store", str(filled.root)]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "6 of 6 entries are as they were written\n")
