"""How fast the simulator is: against SCALE-Sim 3.0.0, over a whole figure, and against its own reference.

    python -m benchmarks.simulator --scale-sim PYTHON --out simulator.json

PYTHON is an interpreter with `scalesim` 3.0.0 and NumPy 2.2 (2.4, which this project has, makes it fail):

    python -m venv DIR && DIR/bin/pip install scalesim==3.0.0 "numpy<2.3"

Without one that row is not measured. SCALE-Sim takes minutes, so it runs once, and ours before and after it
on the same layers. Both simulate the dense network with all data in place. SCALE-Sim makes the address of
every access of an output-stationary array, here without writing them to files; ours counts accesses of its
default design and sums energies. A larger array has fewer cycles to step through: 32 x 32, the default, has
four times the multipliers of ours, in favour of SCALE-Sim.

Ours and SCALE-Sim each have a process of their own, in which the first call includes the imports.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from benchmarks.simulator_runs import CONFIGURATIONS
from benchmarks.timing import Spread, Timing, interleave, machine, markdown_table, timing_record, write_json
from hwsim.hardware import load_hardware
from hwsim.layers import Layer, load_network
from hwsim.masks import random_mask
from hwsim.scale_sim import output_stationary_cycles
from hwsim.simulate import simulate_layer
from pipeline.command_line import new_app

ROOT = Path(__file__).resolve().parents[1]

COMPARED = "resnet18"
"""The network that SCALE-Sim simulates too."""

SWEPT = "wrn34_10"
"""The network that is simulated in all configurations."""

SMALL = Layer(
    name="small",
    in_channels=16,
    out_channels=32,
    kernel_height=3,
    kernel_width=3,
    in_height=8,
    in_width=8,
    out_height=8,
    out_width=8,
)
"""A layer that the reference, which steps through every cycle, simulates in a moment."""


class RunFailed(RuntimeError):
    """A process of the benchmark failed: the last line of what it said, and all of it as a note."""


class ScaleSimFailed(RunFailed):
    """SCALE-Sim's process did."""


def run_alone(python: str | Path, module: str, *arguments: str) -> dict[str, Any]:
    """What `python -m module` prints as JSON.

    Raises:
        RunFailed: it ended with an error, or there is no such interpreter.
    """
    command = [str(python), "-m", module, *arguments]
    try:
        # from the root and with nothing else of the caller's path: `python` may be another environment's
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
        )
    except OSError as error:
        raise RunFailed(f"{str(python)!r} cannot be run: {error.strerror}") from None
    if done.returncode != 0:
        failed = RunFailed((done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1])
        failed.add_note(done.stderr)
        raise failed
    return json.loads(done.stdout)


def compare_with_scale_sim(python: str | Path | None, size: int, rounds: int) -> dict[str, Any]:
    """Ours, SCALE-Sim once, ours again, on the dense network; without `python` ours only.

    Raises:
        ScaleSimFailed: it could not run.
    """
    arguments = "benchmarks.simulator_runs", "dense", COMPARED, f"--rounds={rounds}"
    ours = [run_alone(sys.executable, *arguments)]
    tool = None
    if python is not None:
        options = f"--rows={size}", f"--columns={size}"
        try:
            tool = run_alone(python, "benchmarks.scale_sim_tool", COMPARED, *options)
        except RunFailed as error:
            raise ScaleSimFailed(str(error)) from error
    ours.append(run_alone(sys.executable, *arguments))
    found: dict[str, Any] = {"network": COMPARED, "ours": ours, "scale_sim": tool}
    if tool is not None:
        expected = [output_stationary_cycles(layer, size, size) for layer in load_network(COMPARED)]
        found |= {
            "array": [size, size],
            "closed_form_holds": tool["cycles"] == expected,
            "times_faster": asdict(Spread.of([tool["run_s"] / s for run in ours for s in run["seconds"]])),
            "times_faster_first": asdict(Spread.of([first_s(tool) / first_s(run) for run in ours])),
        }
    return found


def first_s(run: Mapping[str, Any]) -> float:
    """Seconds from nothing to the first result: imports, reading and one simulation."""
    if "first_s" in run:
        return run["import_s"] + run["read_s"] + run["first_s"]
    return run["import_s"] + run["run_s"]


def compare_engines(layer: Layer, rounds: int) -> list[Timing]:
    """The fast engine and the reference on `layer`, half of its neurons noisy."""
    hardware = load_hardware("unstructured")
    mask = random_mask(layer, np.random.default_rng(0), ratio=0.5)
    return interleave(
        {
            "reference": lambda: simulate_layer(layer, hardware, mask, engine="reference"),
            "fast": lambda: simulate_layer(layer, hardware, mask),
        },
        rounds=rounds,
    )


def table(compared: Mapping[str, Any], swept: Mapping[str, Any], engines: Sequence[Timing]) -> str:
    """Markdown: seconds of ours and of the other, how many times faster, and peak memory of both."""
    ours, tool = compared["ours"], compared["scale_sim"]
    memory = f"{max(run['peak_memory_bytes'] for run in ours) / 1e6:.0f}"
    other = ["SCALE-Sim", "not measured", ""]
    rows = []
    for name, seconds, key in (
        ("", [s for run in ours for s in run["seconds"]], "times_faster"),
        (", first call", [first_s(run) for run in ours], "times_faster_first"),
    ):
        both = memory
        if tool is not None:
            its_s = first_s(tool) if name else tool["run_s"]
            other = ["SCALE-Sim", f"{its_s:.1f}", f"{Spread(**compared[key]):.0f}"]
            both = f"{memory} / {tool['peak_memory_bytes'] / 1e6:.0f}"
        rows.append([f"{compared['network']} dense{name}", f"{Spread.of(seconds):.4f}", *other, both])
    what = f"{swept['network']} x {len(swept['runs'])}"
    masks_s = sum(run["masks_s"] for run in swept["runs"])
    memory = f"{swept['peak_memory_bytes'] / 1e6:.0f}"
    rows += [
        [what, f"{swept['run_s']:.2f}", "", "", "", memory],
        ["  of which masks", f"{masks_s:.2f}", "", "", "", ""],
        [f"{what}, first call", f"{first_s(swept):.2f}", "", "", "", memory],
    ]
    reference, fast = engines
    times = (
        f"{fast.spread_s:.5f}",
        "reference",
        f"{reference.spread_s:.5f}",
        f"{fast.speedup_over(reference):.0f}",
    )
    rows.append(["one small layer", *times, ""])
    return markdown_table(["what", "ours, s", "against", "its s", "times faster", "peak MB"], rows)


app = new_app("Time the simulator, side by side with SCALE-Sim and with its own reference.")


@app.command()
def main(
    scale_sim: Annotated[
        Path | None,
        typer.Option(help="Python interpreter with scalesim 3.0.0; default: this one, if it has it."),
    ] = None,
    array: Annotated[int, typer.Option(help="Rows and columns of SCALE-Sim's array.", min=1)] = 32,
    rounds: Annotated[int, typer.Option(help="Repetitions of what is fast.", min=1)] = 7,
    out: Annotated[Path | None, typer.Option(help="Write the measurements to this JSON file.")] = None,
) -> None:
    """Time the simulator, side by side with SCALE-Sim and with its own reference."""
    console = Console(width=160)
    python = scale_sim or (sys.executable if find_spec("scalesim") else None)
    why_not = "SCALE-Sim not measured: this environment lacks it, and --scale-sim names no other interpreter"
    try:
        compared = compare_with_scale_sim(python, array, rounds)
    except ScaleSimFailed as error:
        if scale_sim is not None:
            raise typer.BadParameter(str(error), param_hint="--scale-sim") from None
        why_not = f"SCALE-Sim not measured: {error}"
        compared = compare_with_scale_sim(None, array, rounds)
    swept = run_alone(sys.executable, "benchmarks.simulator_runs", "sweep", SWEPT) | {"network": SWEPT}
    engines = compare_engines(SMALL, rounds)
    console.print(table(compared, swept, engines), highlight=False, markup=False)
    tool = compared["scale_sim"]
    if tool is None:
        console.print(why_not, highlight=False, markup=False)
    else:
        agrees = "as in" if compared["closed_form_holds"] else "UNLIKE"
        console.print(
            f"SCALE-Sim {tool['version']}, {array} x {array}: {sum(tool['cycles'])} cycles, {agrees} the "
            "closed form of hwsim.scale_sim, layer by layer",
            highlight=False,
        )
    names = ", ".join(noise.name for noise in CONFIGURATIONS)
    console.print(f"{SWEPT} x {len(CONFIGURATIONS)}: {names}", highlight=False)
    inside = f"dot products of {SMALL.inputs_per_output}"
    console.print(f"small layer: {SMALL.output_values} outputs, {inside}, 50%", highlight=False)
    console.print(machine(), highlight=False)
    if out is not None:
        measured = {
            "scale_sim_comparison": compared,
            "sweep": swept,
            "engines": timing_record(engines, "reference"),
        }
        write_json(out, measured)


if __name__ == "__main__":
    app()
