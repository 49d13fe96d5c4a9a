"""The benchmark of the simulator compares the same layers, in processes that hold nothing else."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from benchmarks import simulator
from benchmarks.scale_sim_tool import peak_memory_bytes
from benchmarks.simulator import RunFailed, compare_engines, compare_with_scale_sim, run_alone, table
from benchmarks.simulator_runs import CONFIGURATIONS, dense, sweep
from benchmarks.timing import Timing
from hwsim.hardware import load_hardware
from hwsim.layers import Layer, load_network
from hwsim.scale_sim import output_stationary_cycles
from hwsim.simulate import simulate_layer

ROOT = Path(__file__).resolve().parents[2]
SMALL = "small_resnet"
RUN = {
    "import_s": 0.25,
    "read_s": 0.25,
    "first_s": 0.5,
    "seconds": [0.1, 0.2],
    "peak_memory_bytes": 50_000_000,
}
ENGINES = [Timing("reference", (0.2, 0.4)), Timing("fast", (0.1, 0.2))]
SWEPT = {
    "network": "wide",
    "import_s": 0.5,
    "run_s": 1.5,
    "runs": [{"masks_s": 0.25}, {"masks_s": 0.5}],
    "peak_memory_bytes": 60_000_000,
}


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("|")[1:-1]]


def test_configurations_are_those_of_the_papers_file() -> None:
    finetune = yaml.safe_load((ROOT / "paper" / "params.yaml").read_text())["finetune"]
    assert len({noise.name for noise in CONFIGURATIONS}) == len(CONFIGURATIONS) == 13
    assert CONFIGURATIONS[0].name == "dense"
    assert [noise.ratio for noise in CONFIGURATIONS if noise.ratio is not None] == finetune["ratio"]
    assert [noise.pattern for noise in CONFIGURATIONS if noise.pattern is not None] == finetune["pattern"]


def test_a_sweep_simulates_every_configuration() -> None:
    found = sweep(SMALL)
    assert [run["noise"] for run in found["runs"]] == [noise.name for noise in CONFIGURATIONS]
    ours = [simulate_layer(layer, load_hardware("unstructured")).counters for layer in load_network(SMALL)]
    assert found["runs"][0]["cycles"] == sum(counters.cycles for counters in ours)
    cycles = {run["noise"]: run["cycles"] for run in found["runs"]}
    assert cycles["99%"] < cycles["90%"] < cycles["50%"] < cycles["10%"]
    assert cycles["7:8"] < cycles["4:8"] < cycles["1:8"]
    assert found["run_s"] >= sum(run["masks_s"] + run["simulation_s"] for run in found["runs"])


def test_runs_alone_say_what_they_say_here() -> None:
    found = run_alone(sys.executable, "benchmarks.simulator_runs", "dense", SMALL, "--rounds=2")
    assert len(found["seconds"]) == 2
    assert found["cycles"] == dense(SMALL, 1)["cycles"]
    assert 0 < found["peak_memory_bytes"] < peak_memory_bytes()  # this process holds PyTorch


def test_measured_processes_do_not_import_pytorch() -> None:
    program = (
        "import sys; from benchmarks.simulator_runs import dense; dense('small_resnet', 0); "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert done.stdout == "False\n"


def test_a_run_that_fails_says_why() -> None:
    with pytest.raises(RunFailed, match=r"^'/no/such/python' cannot be run: No such file"):
        run_alone("/no/such/python", "benchmarks.simulator_runs")
    with pytest.raises(RunFailed, match=r"No module named .*no_such_module"):
        run_alone(sys.executable, "benchmarks.no_such_module")


def test_ratios_are_the_tools_time_over_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    cycles = [output_stationary_cycles(layer, 8, 8) for layer in load_network(simulator.COMPARED)]
    asked: list[tuple[Any, ...]] = []

    def run(python: str | Path, module: str, *arguments: str) -> dict[str, Any]:
        asked.append((python, module, *arguments))
        if module == "benchmarks.simulator_runs":
            return RUN
        memory = 2_000_000_000
        return {"cycles": cycles, "import_s": 1.0, "run_s": 20.0, "peak_memory_bytes": memory, "version": "3"}

    monkeypatch.setattr(simulator, "run_alone", run)
    found = compare_with_scale_sim("theirs", 8, 2)
    ours = (sys.executable, "benchmarks.simulator_runs", "dense", "resnet18", "--rounds=2")
    tool = ("theirs", "benchmarks.scale_sim_tool", "resnet18", "--rows=8", "--columns=8")
    assert asked == [ours, tool, ours]
    assert found["closed_form_holds"]
    assert found["times_faster"] == {"median": 150.0, "low": 100.0, "high": 200.0}
    assert found["times_faster_first"] == {"median": 21.0, "low": 21.0, "high": 21.0}
    lines = table(found, SWEPT, ENGINES).splitlines()[2:]
    assert [cells(line) for line in lines] == [
        ["resnet18 dense", "0.1500 [0.1000, 0.2000]", "SCALE-Sim", "20.0", "150 [100, 200]", "50 / 2000"],
        [
            "resnet18 dense, first call",
            "1.0000 [1.0000, 1.0000]",
            "SCALE-Sim",
            "21.0",
            "21 [21, 21]",
            "50 / 2000",
        ],
        ["wide x 2", "1.50", "", "", "", "60"],
        ["of which masks", "0.75", "", "", "", ""],
        ["wide x 2, first call", "2.00", "", "", "", "60"],
        [
            "one small layer",
            "0.15000 [0.12500, 0.17500]",
            "reference",
            "0.30000 [0.25000, 0.35000]",
            "2 [2, 2]",
            "",
        ],
    ]
    cycles[3] += 1
    assert not compare_with_scale_sim("theirs", 8, 2)["closed_form_holds"]


def test_engines_are_timed_on_the_same_layer() -> None:
    tiny = Layer(
        name="tiny",
        in_channels=2,
        out_channels=4,
        kernel_height=1,
        kernel_width=1,
        in_height=2,
        in_width=2,
        out_height=2,
        out_width=2,
    )
    assert [timing.name for timing in compare_engines(tiny, 1)] == ["reference", "fast"]


def test_without_scale_sim_the_row_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simulator, "COMPARED", SMALL)
    monkeypatch.setattr(simulator, "SWEPT", SMALL)
    monkeypatch.setattr(simulator, "find_spec", lambda name: None)
    simulator.main(rounds=1, out=tmp_path / "out.json")
    printed = capsys.readouterr().out
    assert "not measured" in cells(printed.splitlines()[2])
    assert "--scale-sim names no other interpreter" in printed
    assert "dense, 10%, 20%, 30%, 50%, 80%, 90%, 99%, 1:8, 2:8, 4:8, 6:8, 7:8" in printed
    written = json.loads((tmp_path / "out.json").read_text())
    assert written.keys() == {"machine", "scale_sim_comparison", "sweep", "engines"}
    assert written["scale_sim_comparison"]["scale_sim"] is None


def test_an_interpreter_that_was_named_must_work() -> None:
    with pytest.raises(typer.BadParameter, match="cannot be run"):
        simulator.main(scale_sim=Path("/no/such/python"), rounds=1)
