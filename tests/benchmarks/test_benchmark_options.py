"""Options of benchmarks that cannot be: one line that names them, status 2."""

from collections.abc import Callable

import pytest

from benchmarks import (
    attack_protocols,
    defenses,
    injected_network,
    scale_sim_tool,
    simulator,
    simulator_runs,
    training_step,
)


@pytest.mark.parametrize(
    ("command", "arguments", "expected"),
    [
        (simulator.app, "--rounds 0", "--rounds: expected greater than or equal to 1, found '0'"),
        (injected_network.app, "--batch all", "--batch: expected a valid integer, found 'all'"),
        (injected_network.app, "--model resnet81", "unknown model 'resnet81'; did you mean 'resnet18'?"),
        (attack_protocols.app, "--atack x", "no such option: --atack (Possible options: --attack, "),
        (training_step.main, "--rounds 0", "--rounds: expected a whole number from 1 on, found '0'"),
        (training_step.main, "--steps ten", "--steps: expected a whole number from 1 on, found 'ten'"),
        (defenses.main, "--model resnet81", "--model: invalid choice: 'resnet81' (choose from "),
        (simulator_runs.main, "dense resnet81", "unknown network 'resnet81'; did you mean 'resnet18'?"),
        (simulator_runs.main, "sparse resnet18", "invalid choice: 'sparse' (choose from "),
        (scale_sim_tool.main, "resnet81", "unknown network 'resnet81'; did you mean 'resnet18'?"),
        (scale_sim_tool.main, "resnet18 --rows 0", "--rows: expected a whole number from 1 on, found '0'"),
    ],
)
def test_wrong_options_are_one_line(
    command: Callable[[], object],
    arguments: str,
    expected: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.argv", ["benchmark", *arguments.split()])
    with pytest.raises(SystemExit) as end:
        command()
    said = capsys.readouterr()
    assert (end.value.code, said.out) == (2, "")
    [line] = said.err.splitlines()
    assert line.startswith("error: ")
    assert expected in line
