"""The sweep without its stages: how good its order is, what it costs, how soon it knows what is to be done.

    python -m benchmarks.sweep --out sweep.json
    python -m benchmarks.sweep --ray

Stages with made-up costs run on virtual workers. Their makespan is compared with what nobody can beat: the
longest path, and the work divided by the workers. Once the schedule knows the costs; once it knows the median
of each kind only, as in a first sweep. The look ahead (`--dry-run`) is measured on a generated grid, in a
process of its own, from the imports to the estimates. `--ray` counts trials a second of a local Ray whose
stages do nothing.
"""

import json
import subprocess
import sys
import tempfile
import tracemalloc
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import numpy as np
import typer
import yaml
from rich.console import Console

from benchmarks.timing import machine, markdown_table, write_json
from benchmarks.virtual_workers import (
    MINUTES,
    at_random,
    like_a_sweep,
    log_normal_costs,
    longest_path,
    simulate,
)
from pipeline.command_line import new_app
from pipeline.graph import Graph
from pipeline.schedule import Schedule

ROOT = Path(__file__).resolve().parents[1]
WORKERS = (1, 4, 16, 64)


@dataclass(frozen=True)
class Order:
    """How good the order of one run was."""

    shape: str
    stages: int
    workers: int
    known: str
    """What the schedule knew of the costs: "costs" or "medians"."""
    ratio: float
    """Makespan over max(longest path, work / workers); 1 is perfect, and often impossible."""
    scheduler_ms_per_stage: float
    memory_kb_per_stage: float
    """Of the schedule, at most."""


def measure(shape: str, graph: Graph, workers: int, *, seed: int, known: str = "costs") -> Order:
    """Run `graph` with random costs on virtual workers."""
    costs = log_normal_costs(graph, np.random.default_rng(seed))
    medians = {name: float(MINUTES[name.stage]) for name in graph.nodes}
    seconds = costs if known == "costs" else medians

    def run() -> tuple[float, float]:
        begun = perf_counter()
        schedule = Schedule(graph, seconds=seconds)
        made = perf_counter() - begun
        found = simulate(schedule, costs, workers)
        return found.makespan, made + found.scheduler_s

    makespan, scheduler_s = run()
    tracemalloc.start()  # it makes everything slower: in a run of its own
    try:
        run()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    bound = max(longest_path(graph, costs), sum(costs.values()) / workers)
    count = len(graph.nodes)
    return Order(
        shape, count, workers, known, makespan / bound, scheduler_s / count * 1e3, peak / count / 1e3
    )


def generated_grid(stages: int) -> dict[str, Any]:
    """A grid file of at least so many stages: the paper's experiment, two networks, seeds enough."""
    each = 2 * (
        1 + 1 + 1 + 3 * 17
    )  # pretrain, distill, dense attack, and three stages for each kind of noise
    return {
        "extends": str(ROOT / "paper" / "params.yaml"),
        "axes": {"seed": list(range(-(-stages // each))), "pretrain.model": ["resnet18", "wrn34_10"]},
        "pretrain": {"defense": "adversarial"},
        "finetune": {
            "ratio": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99],
            "pattern": [f"{noisy}:8" for noisy in range(1, 8)],
            "objective": "adversarial",
        },
    }


LOOK_AHEAD = """
import json, sys
from pathlib import Path
from time import perf_counter
from benchmarks.scale_sim_tool import peak_memory_bytes
begun = perf_counter()
from pipeline.command_line import silence_telemetry
silence_telemetry()
from pipeline.costs import Rates
from pipeline.planning import glance
from pipeline.experiment import STAGES
from pipeline.store import Store
from pipeline.sweep_records import Asked
from pipeline.wanted import Wanted
marks = {"import_s": perf_counter() - begun}
begun = perf_counter()
wanted = Wanted(Asked(grid=sys.argv[1]))
marks["graph_s"] = perf_counter() - begun
begun = perf_counter()
seen = glance(wanted.graph, Store(Path(sys.argv[1]).parent / "store"))
marks["store_s"] = perf_counter() - begun
begun = perf_counter()
rates = Rates({(stage, "resnet18"): [1e-9] for stage in STAGES})
estimates = {name: rates.estimate(node) for name, node in wanted.graph.nodes.items() if name in seen.missing}
marks["estimates_s"] = perf_counter() - begun
marks["stages"] = len(wanted.graph.nodes)
marks["peak_memory_mb"] = peak_memory_bytes() / 1e6
print(json.dumps(marks))
"""


def look_ahead(stages: int) -> dict[str, float]:
    """Seconds and memory of a process, from nothing to the estimates of a grid of so many stages."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "generated.yaml"
        path.write_text(yaml.safe_dump(generated_grid(stages)))
        command = [sys.executable, "-c", LOOK_AHEAD, str(path)]
        done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


app = new_app("Measure the sweep without its stages: its order, its own time, its look ahead.")


@app.command()
def main(
    stages: Annotated[int, typer.Option(help="Stages of the graphs.", min=10)] = 2000,
    ahead: Annotated[int, typer.Option(help="Stages of the grid that is looked at ahead.", min=10)] = 20_000,
    seed: Annotated[int, typer.Option(help="Of the made-up costs.", min=0)] = 0,
    ray: Annotated[int, typer.Option(help="Trials on a local Ray that do nothing; 0: none.", min=0)] = 0,
    out: Annotated[Path | None, typer.Option(help="Write the measurements to this JSON file.")] = None,
) -> None:
    """Measure the sweep without its stages: its order, its own time, its look ahead."""
    console = Console(width=140)
    graphs = {"like a sweep": like_a_sweep(stages), "random": at_random(stages, np.random.default_rng(seed))}
    orders = [
        measure(shape, graph, workers, seed=seed, known=known)
        for shape, graph in graphs.items()
        for known in ("costs", "medians")
        for workers in WORKERS
    ]
    columns = (
        "shape",
        "stages",
        "workers",
        "known",
        "makespan / bound",
        "scheduler, ms a stage",
        "memory, kB a stage",
    )
    rows = [
        [
            order.shape,
            str(order.stages),
            str(order.workers),
            order.known,
            f"{order.ratio:.3f}",
            f"{order.scheduler_ms_per_stage:.3f}",
            f"{order.memory_kb_per_stage:.2f}",
        ]
        for order in orders
    ]
    console.print(markdown_table(columns, rows), highlight=False, markup=False)
    looked = look_ahead(ahead)
    whole = sum(value for name, value in looked.items() if name.endswith("_s"))
    memory = f"{looked['peak_memory_mb']:.0f} MB"
    parts = ", ".join(f"{name[:-2]} {value:.2f}" for name, value in looked.items() if name.endswith("_s"))
    console.print(
        f"look ahead: {looked['stages']:.0f} stages in {whole:.1f} s ({parts}), {memory}",
        highlight=False,
    )
    measured: dict[str, object] = {"orders": [asdict(order) for order in orders], "look_ahead": looked}
    if ray:
        from benchmarks.sweep_trials import trials

        measured["ray"] = found = trials(ray)
        console.print(
            f"Ray: {ray} trials in {found['seconds']:.1f} s, {found['trials_per_s']:.1f} a second, "
            f"after {found['start_s']:.1f} s for its start",
            highlight=False,
        )
    console.print(machine(), highlight=False)
    if out is not None:
        write_json(out, measured)


if __name__ == "__main__":
    app()
