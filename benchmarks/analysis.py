"""The analysis of many tracked runs: seconds and memory from the command line to the last file.

    python -m benchmarks.analysis --runs 10000 --folder DIR --out analysis.json

Fills a SQLite MLflow below DIR with made-up runs of one set (`benchmarks.synthetic_runs`), unless a former
call has. Then `python -m analysis` reads and writes everything in a process of its own.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any
from uuid import uuid4

import typer
from rich.console import Console

from benchmarks.synthetic_runs import SyntheticRun, synthetic_runs
from benchmarks.timing import machine, write_json
from nenni_core.errors import InputError
from pipeline.command_line import new_app, silence_telemetry, user_errors

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENT = "table1"
LONGEST_S, MOST_MB = 30, 2000
COMMAND = """
import json, sys
from time import perf_counter, process_time
from benchmarks.scale_sim_tool import peak_memory_bytes
begun = perf_counter()
from analysis.__main__ import app
imported = perf_counter() - begun
try:
    app(sys.argv[2:])
except SystemExit as end:
    if end.code:
        raise
finally:
    marks = {"import_s": imported, "whole_s": perf_counter() - begun}
    marks["cpu_s"] = process_time()  # unlike the others not made longer by what else runs here
    marks["peak_memory_mb"] = peak_memory_bytes() / 1e6
    open(sys.argv[1], "w").write(json.dumps(marks))
"""

app = new_app("Measure the analysis of many tracked runs.")


def fill(uri: str, count: int) -> int:
    """Make the set of runs at `uri` one of `count` runs if it is not; how many were added.

    Runs go into MLflow's own tables at once, as its client would have written them: `log_batch` takes
    minutes for as many, and is not what is measured. What reads them is MLflow's public interface.
    """
    from mlflow import MlflowClient
    from sqlalchemy import MetaData, create_engine, insert

    client = MlflowClient(tracking_uri=uri)
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is not None:
        [parent] = client.search_runs([found.experiment_id], "tags.kind = 'experiment'")
        if parent.data.tags["filled"] == str(count):
            return 0
        there = parent.data.tags["filled"]
        raise InputError(
            f"--runs {count}: the folder has {there} runs; expected as many, or another --folder"
        )
    experiment = client.create_experiment(EXPERIMENT, artifact_location="file:///none")
    now = int(time.time() * 1000)
    tags = {"kind": "experiment", "experiment_key": "made-up", "last_used_ms": str(now)}
    parent_id = client.create_run(experiment, tags=tags, run_name="made-up").info.run_id
    engine = create_engine(uri)
    tables = MetaData()
    tables.reflect(engine, only=["runs", "tags", "params", "metrics", "latest_metrics"])
    with engine.begin() as connection:
        for part in batched(synthetic_runs(count), 500):
            for name, rows in _rows(part, experiment, parent_id, now).items():
                connection.execute(insert(tables.tables[name]), rows)
    engine.dispose()
    client.set_tag(parent_id, "filled", str(count))
    return count


def _rows(
    runs: Sequence[SyntheticRun], experiment: str, parent: str, now: int
) -> dict[str, list[dict[str, Any]]]:
    """The rows of MLflow's tables for `runs`."""
    found: dict[str, list[dict[str, Any]]] = {"runs": [], "tags": [], "params": [], "metrics": []}
    for run in runs:
        run_id = uuid4().hex
        found["runs"].append(
            {
                "run_uuid": run_id,
                "name": run.name,
                "source_type": "UNKNOWN",
                "source_name": "",
                "entry_point_name": "",
                "user_id": "benchmark",
                "status": "FINISHED",
                "start_time": now,
                "end_time": now + 1000,
                "source_version": "",
                "lifecycle_stage": "active",
                "artifact_uri": f"file:///none/{run_id}/artifacts",
                "experiment_id": int(experiment),
            }
        )
        tags = run.tags | {"mlflow.parentRunId": parent, "mlflow.runName": run.name}
        found["tags"] += [{"key": key, "value": value, "run_uuid": run_id} for key, value in tags.items()]
        found["params"] += [
            {"key": key, "value": value, "run_uuid": run_id} for key, value in run.params.items()
        ]
        found["metrics"] += [
            {"key": key, "value": value, "timestamp": now, "step": 0, "is_nan": False, "run_uuid": run_id}
            for key, value in run.metrics.items()
        ]
    return found | {"latest_metrics": found["metrics"]}


def batched(runs: Iterable[SyntheticRun], size: int) -> Iterator[list[SyntheticRun]]:
    """`runs` in lists of `size`, the last one shorter."""
    iterator = iter(runs)
    while part := list(islice(iterator, size)):
        yield part


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
    with user_errors():
        added = fill(uri, runs)
    found = measure(uri, folder)
    console.print(
        f"{runs} runs ({added} new): {found['process_s']:.1f} s of at most {LONGEST_S} "
        f"(imports {found['import_s']:.1f}, CPU {found['cpu_s']:.1f}), "
        f"{found['peak_memory_mb']:.0f} MB of at most {MOST_MB}",
        highlight=False,
    )
    console.print(machine(), highlight=False)
    if out is not None:
        write_json(out, {"runs": runs, **found})


if __name__ == "__main__":
    app()
