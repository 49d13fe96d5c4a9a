"""A search in MLflow: one run of the kind "search", with a point for every trial and the files of the result.

It is no parent of stages, so that no report takes numbers on validation images for results.
"""

from collections.abc import Callable
from pathlib import Path
from time import time

from pipeline.command_line import say
from pipeline.config import Tracking
from pipeline.locations import tracking_location
from pipeline.mlflow_backend import connect, experiment_id
from pipeline.run_tags import flatten
from pipeline.search_results import Results

FILES = ("*.csv", "*.parquet", "*.svg", "*.png", "*.pdf", "*.yaml")


def record(
    settings: Tracking,
    results: Results,
    folder: Path,
    *,
    uri: str | None = None,
    report: Callable[[str], None] = say,
) -> None:
    """Record a search, in the run that it has already if there is one; a failure is one line, and no more."""
    try:
        _record(settings, results, folder, tracking_location(uri, settings.uri))
    except Exception as error:  # whatever the server, the network or the disk came up with
        first_line = (str(error).splitlines() or [""])[0][:200]
        report(f"warning: the search is not in MLflow ({type(error).__name__}: {first_line})")


def _record(settings: Tracking, results: Results, folder: Path, uri: str) -> None:
    from mlflow.entities import Metric, Param

    client = connect(uri)
    experiment = experiment_id(client, uri, settings.experiment)
    base, identity = results.search.base, results.search.identity()
    condition = f"tags.kind = 'search' and tags.search_key = '{identity}'"
    found = client.search_runs([experiment], condition, max_results=1)
    if found:
        run = found[0].info.run_id
    else:
        tags = {
            "kind": "search",
            "search_key": identity,
            "model": base.pretrain.model,
            "dataset": base.prepare.dataset,
            "seed": str(base.seed),
        }
        name = f"search, {base.pretrain.model} on {base.prepare.dataset}, seed {base.seed}"
        run = client.create_run(experiment, tags=tags, run_name=name).info.run_id
    now = int(time() * 1000)
    metrics = [Metric(name, value, now, 0) for name, value in results.summary().items()]
    for trial in results.scored:
        assert trial.found is not None
        metrics += [
            Metric(name, float(getattr(trial.found, name)), now, trial.number)
            for name in ("worst_case", "clean", "edp", "seconds", "joules", "bitops")
        ]
    space = {
        "groups": len(results.search.groups),
        "steps": results.search.steps,
        "uniform": results.search.uniform,
        "attack": base.attack.model_dump(mode="json"),
    }
    params = [Param(name, value[:500]) for name, value in flatten(space).items()]
    client.log_batch(run, params=params[:100])
    for start in range(0, len(metrics), 1000):
        client.log_batch(run, metrics=metrics[start : start + 1000])
    for pattern in FILES:
        for path in sorted(folder.glob(pattern)):
            client.log_artifact(run, str(path))
    client.set_terminated(run)
