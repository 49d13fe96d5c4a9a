"""The analysis of many tracked runs: seconds and memory from the command line to the last file.

    python -m benchmarks.analysis --runs 10000 --folder DIR --out analysis.json

Fills a SQLite MLflow below DIR with made-up runs of one set (`benchmarks.synthetic_runs`), with one
`log_batch` for each; what is there from a former call stays. Then `python -m analysis` reads and writes
everything in a process of its own.
"""

import json
import os
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import track

from benchmarks.synthetic_runs import synthetic_runs
from benchmarks.timing import machine, write_json
from pipeline.command_line import new_app, silence_telemetry

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENT = "table1"
LONGEST_S, MOST_MB = 30, 2000
COMMAND = """
import json, sys
from time import perf_counter
from benchmarks.scale_sim_tool import peak_memory_bytes
begun = perf_counter()
from analysis.__main__ import app
imported = perf_counter() - begun
try:
    app(sys.argv[2:], standalone_mode=False)
finally:
    marks = {"import_s": imported, "whole_s": perf_counter() - begun}
    marks["peak_memory_mb"] = peak_memory_bytes() / 1e6
    open(sys.argv[1], "w").write(json.dumps(marks))
"""

app = new_app("Measure the analysis of many tracked runs.")


def fill(uri: str, count: int) -> int:
    """Bring the set of runs at `uri` to `count` runs; how many were added."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    client = MlflowClient(tracking_uri=uri)
    found = client.get_experiment_by_name(EXPERIMENT)
    experiment = found.experiment_id if found else client.create_experiment(EXPERIMENT)
    parents = client.search_runs([experiment], "tags.kind = 'experiment'")
    if parents:
        parent = parents[0].info.run_id
    else:
        tags = {
            "kind": "experiment",
            "experiment_key": "synthetic",
            "last_used_ms": str(int(time.time() * 1000)),
        }
        parent = client.create_run(experiment, tags=tags, run_name="synthetic").info.run_id
    there = int(client.get_run(parent).data.tags.get("filled", 0))
    missing = list(islice(synthetic_runs(count), there, None))
    for number, run in enumerate(track(missing, "filling"), start=there + 1):
        made = client.create_run(
            experiment, tags=run.tags | {"mlflow.parentRunId": parent}, run_name=run.name
        )
        now = int(time.time() * 1000)
        client.log_batch(
            made.info.run_id,
            metrics=[Metric(name, value, now, 0) for name, value in run.metrics.items()],
            params=[Param(name, value) for name, value in run.params.items()],
        )
        client.set_terminated(made.info.run_id)
        if number % 100 == 0 or number == count:
            client.set_tag(parent, "filled", str(number))
    return len(missing)


def measure(uri: str, folder: Path) -> dict[str, Any]:
    """Seconds and memory of `python -m analysis` on the runs at `uri`, files below `folder`."""
    marks = folder / "marks.json"
    marks.unlink(missing_ok=True)
    options = ["--experiment", EXPERIMENT, "--tracking-uri", uri, "--out", str(folder / "reports")]
    begun = perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, str(marks), *options], cwd=ROOT, capture_output=True, text=True
    )
    seconds = perf_counter() - begun
    if done.returncode or not marks.is_file():
        raise RuntimeError(f"the analysis ended with {done.returncode}: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(marks.read_text()) | {"process_s": seconds}
    return found


@app.command()
def main(
    runs: Annotated[int, typer.Option(help="Tracked runs.", min=100)] = 10_000,
    folder: Annotated[Path, typer.Option(help="Where the runs and the report go; may be used again.")] = Path(
        "outputs/analysis-benchmark"
    ),
    out: Annotated[Path | None, typer.Option(help="Write the measurements to this JSON file.")] = None,
) -> None:
    """Measure the analysis of many tracked runs."""
    silence_telemetry()
    console = Console(width=140)
    folder.mkdir(parents=True, exist_ok=True)
    uri = f"sqlite:///{(folder / 'mlflow.db').resolve()}"
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    added = fill(uri, runs)
    found = measure(uri, folder)
    console.print(
        f"{runs} runs ({added} new): {found['process_s']:.1f} s of at most {LONGEST_S} "
        f"(imports {found['import_s']:.1f}), {found['peak_memory_mb']:.0f} MB of at most {MOST_MB}",
        highlight=False,
    )
    console.print(machine(), highlight=False)
    if out is not None:
        write_json(out, {"runs": runs, **found})


if __name__ == "__main__":
    app()
