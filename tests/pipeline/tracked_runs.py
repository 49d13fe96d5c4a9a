"""What the tests of the tracking look at in MLflow."""

from mlflow import MlflowClient
from mlflow.entities import Run
from stored_stages import store_stage

from pipeline.config import Tracking
from pipeline.runner import Plan
from pipeline.store import Store
from pipeline.tracking import PARENT, Tracker


def runs_of(client: MlflowClient, settings: Tracking) -> tuple[list[Run], list[Run]]:
    """Parent runs and child runs of a test's experiment."""
    experiment = client.get_experiment_by_name(settings.experiment)
    runs = list(client.search_runs([experiment.experiment_id], max_results=1000))
    return [r for r in runs if PARENT not in r.data.tags], [r for r in runs if PARENT in r.data.tags]


def all_runs(client: MlflowClient, settings: Tracking) -> list[Run]:
    parents, children = runs_of(client, settings)
    return [*parents, *children]


def track(store: Store, plans: list[Plan], settings: Tracking, uri: str) -> list[str]:
    """Tell a new tracker that everything is there; returns what it reported."""
    lines: list[str] = []
    tracker = Tracker(settings, plans, store=store, report=lines.append, uri=uri)
    for planned in plans:
        for stage in planned.experiment.stages:
            tracker.finished(stage, planned, store_stage(store, stage, planned), cached=True)
    tracker.close()
    return lines


def history(client: MlflowClient, run: Run, name: str = "train_loss") -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, name)]
