"""Options that cannot be: one line that names them, status 2, in every command of the pipeline."""

import pytest
import typer

from pipeline import evaluate, store_commands, tracking_commands, tune
from pipeline.command_line import CommandLine, new_app
from pipeline.stages.command import stage_app


@pytest.mark.parametrize(
    ("app", "arguments", "expected"),
    [
        (stage_app("attack"), "--threads 0", "--threads: expected greater than or equal to 1, found '0'"),
        (stage_app("attack"), "--threads two", "--threads: expected a valid integer, found 'two'"),
        (stage_app("simulate"), "--param p.yaml", "no such option: --param (Possible options: --params"),
        (stage_app("simulate"), "--params", "option '--params' requires an argument"),
        (evaluate.app, "", "missing option '--dataset'"),
        (evaluate.app, "--dataset digits --threads 1.5", "expected a valid integer, found '1.5'"),
        (store_commands.app, "gc", "missing option '--params'"),
        (store_commands.app, "lss", "no such command 'lss'. Did you mean 'ls'?"),
        (store_commands.app, "", "missing command"),
        (tune.app, "--by layers", "--by: 'layers' is not one of 'layer', 'stage'"),
        (tracking_commands.app, "sync params.yaml", "unexpected extra argument"),
    ],
)
def test_wrong_options_are_one_line(
    app: CommandLine, arguments: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        app(arguments.split(), prog_name="command")
    said = capsys.readouterr()
    assert (end.value.code, said.out) == (2, "")
    [line] = said.err.splitlines()
    assert line.startswith("error: ")
    assert expected in line


@pytest.mark.parametrize("status", [0, 1, 130])
def test_a_command_ends_with_its_own_status(status: int) -> None:
    app = new_app("Ends.")

    @app.command()
    def end() -> None:
        if status:
            raise typer.Exit(status)

    with pytest.raises(SystemExit) as found:
        app([], prog_name="command")
    assert (found.value.code or 0) == status


def test_a_bug_keeps_its_traceback() -> None:
    app = new_app("Fails.")

    @app.command()
    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        app([], prog_name="command")
