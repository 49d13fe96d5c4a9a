"""`python -m hwsim`: every mistake of a user ends in one line and status 2."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from simulator_commands import NANGATE, SMALL, call, masks_of_two_images, written

from hwsim.command_line import app
from hwsim.hardware import load_hardware
from hwsim.simulate import simulate_network


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    """Masks of two images, as the pipeline saves them."""
    return masks_of_two_images(tmp_path)


RUN: dict[str, Any] = {"model": "small_resnet"}
BAD_LAYER = (
    "name,in_channels,out_channels,kernel_height,kernel_width,in_height,in_width,out_height,out_width\n"
)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"model": "resnet81"}, "unknown network 'resnet81'; did you mean 'resnet18'?"),
        ({"model": "absent.csv"}, "'absent.csv' is not a file"),
        (RUN | {"ratio": 1.5}, "ratio 1.5 is outside [0, 1]"),
        (RUN | {"ratio": "nan"}, "ratio nan is outside [0, 1]"),
        (RUN | {"pattern": "9:8"}, "pattern '9:8' asks for noise in 9 of 8 neurons"),
        (RUN | {"pattern": "7of8"}, "pattern '7of8' is not of the form 'N:M'"),
        (RUN | {"pattern": "7:8", "ratio": 0.5}, "expected one of --ratio, --pattern and --masks"),
        (RUN | {"pattern": "1:3"}, "keeps as many of each 8 channels"),
        (RUN | {"ratio": 0.5, "hardware": "structured"}, "has no pattern: 'structured' keeps as many"),
        (RUN | {"technology": "nangate54"}, "unknown technology 'nangate54'; did you mean 'nangate45'?"),
        (RUN | {"hardware": "unstructurd"}, "unknown hardware 'unstructurd'; did you mean 'unstructured'?"),
        (RUN | {"masks": "absent.safetensors"}, "'absent.safetensors' cannot be read as a file of masks"),
        (RUN | {"engine": "slow"}, "unknown engine 'slow'"),
        (RUN | {"ratio": 0.5, "seed": -1}, "seed is -1; expected a whole number from 0 on"),
        (RUN | {"json": "absent/folder/result.json"}, "'absent/folder/result.json': No such file"),
    ],
)
def test_mistakes_are_one_line(options: dict[str, Any], expected: str) -> None:
    result = call("run", *(part for name, value in options.items() for part in (f"--{name}", value)))
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert expected in lines[0]


def test_a_layer_of_size_zero(tmp_path: Path) -> None:
    path = written(tmp_path, "bad.csv", BAD_LAYER + "conv,3,0,3,3,8,8,8,8\n")
    result = call("run", "--model", path)
    assert result.exit_code == 2
    assert f"{path}, line 2: layer 'conv': out_channels is 0" in result.stderr


def test_masks_of_another_network(measured: Path) -> None:
    result = call("run", "--model", "resnet18", "--masks", measured)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert str(measured) in result.stderr


def test_a_memory_too_small_for_one_tile(tmp_path: Path) -> None:
    core = written(tmp_path, "core.yaml", "name: mine\nvector_units: 16\nlanes: 16\nactivation_sram_kib: 8\n")
    result = call("run", "--model", "resnet18", "--hardware", core)
    assert result.exit_code == 2
    assert "activation_sram_kib 8 of 'mine' is too small for one tile" in result.stderr


def result_with(changes: dict[str, Any]) -> str:
    """A saved result with something else in its total."""
    content = simulate_network(SMALL[:1], load_hardware("unstructured"), NANGATE).as_dict()
    return json.dumps({"total": content["total"] | changes})


def test_what_is_no_result_is_not_compared(tmp_path: Path) -> None:
    for name, text, expected in (
        ("text.json", "no JSON", "not JSON"),
        ("other.json", '{"total": {}}', "not a result of a simulation"),
        ("list.json", "[]", "not a result of a simulation"),
        ("number.json", result_with({"cycles": "many"}), "not a result of a simulation"),
        ("parts.json", result_with({"energy_pj": 3}), "not a result of a simulation"),
        ("part.json", result_with({"area_um2": {"registers": None}}), "not a result of a simulation"),
    ):
        path = written(tmp_path, name, text)
        result = call("compare", path, path)
        assert result.exit_code == 2
        assert f"error: {path}: {expected}" in result.stderr


def test_mistakes_of_the_other_commands(measured: Path) -> None:
    for arguments, expected in (
        (("explain", "--model", "small_resnet", "--layer", "conv9"), "unknown layer 'conv9'"),
        (("explain", "--model", "small_resnet", "--timeline", "x.png"), "expected --layer too"),
        (
            ("explain", "--model", "small_resnet", "--layer", "conv1", "--timeline", "x.gif"),
            "'x.gif' is no name of a picture; expected the ending .png, .svg, .pdf",
        ),
        (
            ("explain", "--model", "small_resnet", "--layer", "conv1", "--dram", 4),
            "--dram is shared by all layers; expected no --layer",
        ),
        (
            ("sweep", "--model", "small_resnet", "--model", "resnet18", "--masks", measured),
            "--masks are of one network; found 2",
        ),
        (("cacti", "--cacti", "absent"), "no CACTI program 'absent'"),
        (
            ("sweep", "--model", "small_resnet", "--hardware", "structured", "--hardware", "structured"),
            "expected designs of different names, found structured, structured",
        ),
        (("draw", "absent.csv"), "'absent.csv': No such file"),
        (("draw", measured), f"{measured}: not a table of simulations"),
    ):
        result = call(*arguments)
        assert result.exit_code == 2
        assert expected in result.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("run --model small_resnet --images 0", "--images: expected greater than or equal to 1, found '0'"),
        ("run --model small_resnet --images 1.5", "--images: expected a valid integer, found '1.5'"),
        ("run --model small_resnet --ratio half", "--ratio: expected a valid number, found 'half'"),
        ("sweep --model small_resnet --dram 0", "--dram: expected greater than or equal to 1, found '0'"),
        ("run --modle small_resnet", "no such option: --modle (Possible options: --model)"),
        ("explain", "missing option '--model'"),
        ("run --model", "option '--model' requires an argument"),
        ("compare one.json", "missing argument 'second'"),
        ("run --model small_resnet other", "unexpected extra argument(s) (other)"),
        ("rnu", "no such command 'rnu'. Did you mean 'run'?"),
    ],
)
def test_wrong_options_are_one_line(
    arguments: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        app(arguments.split(), prog_name="hwsim")
    said = capsys.readouterr()
    assert (end.value.code, said.out) == (2, "")
    [line] = said.err.splitlines()
    assert line.startswith("error: ")
    assert expected in line


@pytest.mark.parametrize(("arguments", "status"), [("", 2), ("--help", 0), ("run --help", 0)])
def test_help_is_shown_as_it_is(arguments: str, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        app(arguments.split(), prog_name="hwsim")
    said = capsys.readouterr()
    assert (end.value.code, said.err) == (status, "")
    assert "Usage: hwsim" in said.out


def test_the_module_runs_without_pytorch() -> None:
    """In a process of its own: no traceback, and PyTorch is not imported."""
    code = (
        "import sys, runpy; sys.argv = ['hwsim', 'run', '--model', 'small_resnet', '--pattern', '9:8']\n"
        "try: runpy.run_module('hwsim', run_name='__main__')\n"
        "except SystemExit as end: print(end.code, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["2", "False"]
    assert done.stderr.startswith("error: pattern '9:8'")
