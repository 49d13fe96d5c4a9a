"""Command lines: one clear line per mistake, honest exit statuses, progress without a terminal."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import typer
from pydantic import ValidationError

from nenni_core.device import choose_device, configure_torch
from nenni_core.errors import InputError
from pipeline.command_line import PlainProgress, progress_display, user_errors
from pipeline.experiment import ExperimentSet


def test_an_input_error_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as stop, user_errors():
        raise InputError("ratio is 2; expected 0 to 1")
    assert stop.value.exit_code == 2
    assert capsys.readouterr().err == "error: ratio is 2; expected 0 to 1\n"


def test_an_interrupt_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as stop, user_errors():
        raise KeyboardInterrupt
    assert stop.value.exit_code == 130
    assert "continues" in capsys.readouterr().err


def test_a_wrong_file_is_one_line_per_problem(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as stop, user_errors(ExperimentSet, Path("params.yaml")):
        ExperimentSet.model_validate({"seed": "x", "prepare": {"validation_images": 1}})
    assert stop.value.exit_code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 5
    assert all(line.startswith("error: params.yaml: ") for line in lines)


def test_bugs_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError), user_errors():
        _ = 1 / 0
    with pytest.raises(ValidationError), user_errors():  # nothing of the user's was being read
        ExperimentSet.model_validate({})


def test_plain_progress_is_sparse_and_estimates() -> None:
    lines: list[str] = []
    now = 0.0
    progress = PlainProgress(lines.append, every=10, clock=lambda: now)
    for completed in range(101):
        progress("training", completed, 100)
        now += 1.0
    assert lines[0] == "  training: 10 of 100, about 90 s left"
    assert len(lines) == 9
    progress("more", 1, 1000)
    now += 600
    progress("more", 2, 1000)
    assert lines[-1] == "  more: 2 of 1000, about 166.3 h left"
    progress("quick", 1, 1)
    assert len(lines) == 10


def test_progress_begun_half_way_estimates_from_there() -> None:
    lines: list[str] = []
    now = 0.0
    progress = PlainProgress(lines.append, every=10, clock=lambda: now)
    progress("training", 90, 100)
    now = 10.0
    progress("training", 91, 100)
    assert lines == ["  training: 91 of 100, about 90 s left"]


def test_without_a_terminal_progress_is_plain() -> None:
    with progress_display() as progress:
        assert isinstance(progress, PlainProgress)


def test_a_device_that_is_not_there_is_an_input_error() -> None:
    assert choose_device("cpu") == "cpu"
    assert choose_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("nonsense", "cuda:99", "meta"):
        with pytest.raises(InputError, match=name):
            choose_device(name)


@pytest.fixture
def torch_settings() -> Iterator[None]:
    """PyTorch's global settings as they were."""
    deterministic, threads = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    filled = torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(deterministic)
    torch.set_num_threads(threads)
    torch.utils.deterministic.fill_uninitialized_memory = filled


@pytest.mark.usefixtures("torch_settings")
def test_torch_is_made_deterministic() -> None:
    configure_torch(1)
    assert torch.get_deterministic_debug_mode() == 2  # an error
    configure_torch(1, "cuda")
    assert torch.get_deterministic_debug_mode() == 1  # a warning
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.get_num_threads() == 1
    assert not torch.utils.deterministic.fill_uninitialized_memory
