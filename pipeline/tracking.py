"""Recording runs in MLflow, in one place. The store is the truth; MLflow can be made from it again.

A parent run stands for a set of experiments, a child run for every stage instance in it. Children are found
again by (parent, key): running the same set twice adds nothing, and a stage that was interrupted continues in
the run that it had. A stage that was computed again with another result gets a new run; MLflow lists the old
one as deleted. A tracking server that fails is reported once and never stops a stage;
`python -m pipeline.tracking sync --params params.yaml` catches up from the store afterwards.
"""

import hashlib
import json
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nenni_core.chain.runtime import RecordCallback
from nenni_core.files import canonical_json, read_json
from pipeline.command_line import say
from pipeline.config import Tracking
from pipeline.keys import stage_config
from pipeline.locations import tracking_location
from pipeline.mlflow_backend import connect, exclusive, experiment_id
from pipeline.run_tags import WEIGHTS, flatten, result_tags, stage_tags
from pipeline.runner import Plan
from pipeline.store import TIMING, Entry, Store

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

PARENT = "mlflow.parentRunId"
LOSS = "train_loss"
"""The curve that every training has."""


class Tracker:
    """An `Observer` that writes what it sees to MLflow. None of its methods raises.

    `report` gets one line if tracking fails; from then on the tracker does nothing. `uri` is what the command
    line says of where MLflow is; `tracking_location` decides.
    """

    def __init__(
        self,
        settings: Tracking,
        plans: Sequence[Plan],
        *,
        store: Store,
        report: Callable[[str], None] = say,
        uri: str | None = None,
        about: Mapping[str, str] | None = None,
        wanted: Collection[str] | None = None,
    ) -> None:
        """`about`: further tags of the parent run; its `name` is the run's. `wanted`: keys of the stages that
        end it when they are there; default: all of `plans`.
        """
        self._settings = settings
        self._plans = plans
        self._about = dict(about or {})
        self._wanted = wanted
        self._store = store
        self._report = report
        self._uri = tracking_location(uri, settings.uri)
        self._session: _Session | None = None
        self._failed = False

    @contextmanager
    def computing(self, stage: str, plan: Plan, *, resumed: bool) -> Iterator[RecordCallback]:
        """A run in state RUNNING while a stage is computed; FAILED with the error as a tag if it raises."""
        self._attempt(lambda session: session.begin(stage, plan, self._settings, resumed=resumed))

        def on_record(values: Mapping[str, float], step: int) -> None:
            self._attempt(lambda session: session.record(plan.keys[stage], values, step))

        try:
            yield on_record
        except BaseException as error:
            reason = f"{type(error).__name__}: {error}"
            status = "FAILED" if isinstance(error, Exception) else "KILLED"
            self._attempt(lambda session: session.fail(plan.keys[stage], status, reason))
            raise

    def finished(self, stage: str, plan: Plan, entry: Entry, *, cached: bool) -> None:
        """Everything about a finished stage; nothing if its run has that already."""
        self._attempt(lambda session: session.finish(stage, plan, entry, self._store, cached=cached))

    def close(self) -> None:
        """End the parent run if every stage of the set has its finished run."""
        self._attempt(lambda session: session.close())

    @property
    def has_failed(self) -> bool:
        """Whether something could not be recorded."""
        return self._failed

    def _attempt(self, action: "Callable[[_Session], None]") -> None:
        if self._failed:
            return
        try:
            if self._session is None:
                self._session = _Session(
                    self._uri, self._settings.experiment, self._plans, self._about, self._wanted
                )
            action(self._session)
        except Exception as error:  # whatever the server, the network or the disk came up with
            self._failed = True
            first_line = (str(error).splitlines() or [""])[0][:200]
            self._report(
                f"warning: MLflow is not written to any more ({type(error).__name__}: {first_line}); results"
                " are in the store, `python -m pipeline.tracking sync` records them later"
            )


class _Session:
    """An open connection with the runs of one experiment set."""

    def __init__(
        self,
        uri: str,
        experiment: str,
        plans: Sequence[Plan],
        about: Mapping[str, str],
        wanted: Collection[str] | None,
    ) -> None:
        self._client: MlflowClient = connect(uri)
        self._experiment = experiment_id(self._client, uri, experiment)
        every = {key for planned in plans for key in planned.keys.values()}
        self._wanted = every if wanted is None else set(wanted)
        with exclusive(uri):
            self._parent = self._find_or_create_parent(plans, about)
        for name, value in about.items():
            self._client.set_tag(self._parent, name, value)
        # a set that is run again is the newest one, though its run is an old one
        self._client.set_tag(self._parent, "last_used_ms", str(int(time.time() * 1000)))
        self._children: dict[str, str] = {}
        self._done: dict[str, str] = {}
        """Digest of the recorded result by key, of the runs that are complete."""
        for run in self._search(f"tags.`{PARENT}` = '{self._parent}'"):
            self._children[run.data.tags["key"]] = run.info.run_id
            if run.info.status == "FINISHED":
                self._done[run.data.tags["key"]] = run.data.tags.get("digest", "")
        self._losses: dict[str, dict[int, float]] = {}
        """What live curves there are by key: training loss by epoch."""
        self._monitors: dict[str, Any] = {}

    def _search(self, condition: str) -> "Iterator[Run]":
        page = None
        while True:
            runs = self._client.search_runs([self._experiment], condition, max_results=1000, page_token=page)
            yield from runs
            page = runs.token
            if not page:
                return

    def _find_or_create_parent(self, plans: Sequence[Plan], about: Mapping[str, str]) -> str:
        identity = experiment_key(plans)
        for run in self._search(f"tags.experiment_key = '{identity}'"):
            return run.info.run_id
        first = plans[0].experiment
        tags = {
            "kind": "experiment",
            "experiment_key": identity,
            "source": "dvc",
            "model": first.pretrain.model,
            "dataset": first.prepare.dataset,
            "seed": str(first.seed),
        }
        name = about.get("name", f"{first.pretrain.model} on {first.prepare.dataset}, seed {first.seed}")
        return self._client.create_run(self._experiment, tags=tags, run_name=name).info.run_id

    def begin(self, stage: str, plan: Plan, settings: Tracking, *, resumed: bool) -> None:
        """Open the run of a stage, or continue the one that an interrupted process has left."""
        key = plan.keys[stage]
        if key in self._done or (not resumed and self._recorded_losses(key)):
            self._supersede(key)
        run_id = self._child(stage, plan, cached=False)
        self._client.update_run(run_id, status="RUNNING")
        self._losses[key] = self._recorded_losses(key)
        if stage in settings.system_metrics:
            from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

            monitor = SystemMetricsMonitor(
                run_id, resume_logging=True, tracking_uri=self._client.tracking_uri
            )
            monitor.start()
            self._monitors[key] = monitor

    def record(self, key: str, values: Mapping[str, float], step: int) -> None:
        """One point of the live curves; a step that is there already stays as it is."""
        losses = self._losses.setdefault(key, {})
        if step not in losses:
            self._log(self._children[key], [(name, value, step) for name, value in values.items()])
            losses[step] = values.get(LOSS, 0.0)

    def fail(self, key: str, status: str, reason: str) -> None:
        """End a run that did not get to its result."""
        self._stop_monitor(key)
        run_id = self._children[key]
        self._client.set_tag(run_id, "error", reason[:5000])
        self._client.set_terminated(run_id, status=status)

    def finish(self, stage: str, plan: Plan, entry: Entry, store: Store, *, cached: bool) -> None:
        """Parameters, metrics, curves, data and files of a finished stage."""
        key = plan.keys[stage]
        self._stop_monitor(key)
        if self._done.get(key) == entry.manifest.digest:
            return
        history = _history(entry.path)
        losses = self._losses[key] if key in self._losses else self._recorded_losses(key)
        # curves of another computation: this one was not watched
        strange = any(history.get(step, {}).get(LOSS) != loss for step, loss in losses.items())
        if key in self._done or strange:
            self._supersede(key)
            losses = {}
        run_id = self._child(stage, plan, cached=cached)
        points = [(name, value, 0) for name, value in entry.metrics.items()]
        points.append(("seconds", entry.manifest.seconds, 0))
        points += [
            (name, value, step)
            for step, row in history.items()
            if step not in losses
            for name, value in row.items()
        ]
        points += _timing_points(entry.path)
        self._log(run_id, points)
        for name, value in result_tags(entry).items():
            self._client.set_tag(run_id, name, value)
        self._log_data(run_id, stage, plan, store)
        for path in sorted(entry.path.iterdir()):
            if path.is_file() and path.suffix != WEIGHTS:
                self._client.log_artifact(run_id, str(path))
        self._client.log_dict(run_id, entry.metrics, "metrics.json")
        if self._client.get_run(run_id).data.tags.get("error"):
            self._client.delete_tag(run_id, "error")
        self._client.set_terminated(run_id, status="FINISHED")
        self._done[key] = entry.manifest.digest

    def close(self) -> None:
        """The parent is finished when all its stages are."""
        status = "FINISHED" if self._wanted <= self._done.keys() else "RUNNING"
        if status != self._client.get_run(self._parent).info.status:
            if status == "FINISHED":
                self._client.set_terminated(self._parent, status=status)
            else:
                self._client.update_run(self._parent, status=status)

    def _child(self, stage: str, plan: Plan, *, cached: bool) -> str:
        from mlflow.entities import Param

        key = plan.keys[stage]
        if key not in self._children:
            tags = stage_tags(stage, plan) | {PARENT: self._parent, "cached": str(cached).lower()}
            name = f"{stage} {plan.subject(stage)}"
            run_id = self._client.create_run(self._experiment, tags=tags, run_name=name).info.run_id
            params = flatten(stage_config(stage, plan.experiment)).items()
            self._client.log_batch(run_id, params=[Param(name, value) for name, value in params])
            self._children[key] = run_id
        return self._children[key]

    def _recorded_losses(self, key: str) -> dict[int, float]:
        """The training loss by epoch that the run of a key has."""
        if key not in self._children:
            return {}
        recorded = self._client.get_metric_history(self._children[key], LOSS)
        return {metric.step: metric.value for metric in recorded}

    def _supersede(self, key: str) -> None:
        """Put the run of a key where MLflow keeps deleted runs: its result is not that of the store."""
        self._done.pop(key, None)
        self._losses.pop(key, None)
        if key in self._children:
            self._client.delete_run(self._children.pop(key))

    def _log(self, run_id: str, points: Iterable[tuple[str, float, int]]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, value, step in points]
        for start in range(0, len(metrics), 1000):  # the most that MLflow takes at once
            self._client.log_batch(run_id, metrics=metrics[start : start + 1000])

    def _log_data(self, run_id: str, stage: str, plan: Plan, store: Store) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        facts = store.entry_path("prepare", plan.keys["prepare"]) / "dataset.json"
        if not facts.is_file():
            return
        about = read_json(facts)
        dataset = Dataset(
            name=about["name"],
            digest=plan.data_fingerprint[:36],  # the longest digest that MLflow takes
            source_type="local",
            source=json.dumps({"uri": about["source"]}),
            profile=json.dumps({"images": about["images"], "image_shape": about["image_shape"]}),
        )
        context = "testing" if stage in ("attack", "simulate") else "training"
        tags = [InputTag("mlflow.data.context", context), InputTag("sha256", plan.data_fingerprint)]
        tags += [InputTag(f"sha256.{array}", digest) for array, digest in about["sha256"].items()]
        self._client.log_inputs(run_id, [DatasetInput(dataset, tags)])

    def _stop_monitor(self, key: str) -> None:
        monitor = self._monitors.pop(key, None)
        if monitor is not None:
            monitor.finish()


def experiment_key(plans: Sequence[Plan]) -> str:
    """Identifies a set of experiments: a hash of the keys of everything it computes."""
    return hashlib.sha256(
        canonical_json(sorted({planned.keys["attack"] for planned in plans})).encode()
    ).hexdigest()


def _history(folder: Path) -> dict[int, dict[str, float]]:
    """The learning curves of an entry: values by name, by epoch."""
    path = folder / "history.json"
    rows = read_json(path) if path.is_file() else []
    return {int(row["epoch"]): {name: row[name] for name in row if name != "epoch"} for row in rows}


def _timing_points(folder: Path) -> list[tuple[str, float, int]]:
    """The seconds of the parts of an entry: of epochs as a curve."""
    points: list[tuple[str, float, int]] = []
    if (folder / TIMING).is_file():
        for name, value in read_json(folder / TIMING).items():
            if isinstance(value, list):
                points += [(name, seconds, step) for step, seconds in enumerate(value, start=1)]
            else:
                points.append((name, value, 0))
    return points


if __name__ == "__main__":
    from pipeline.tracking_commands import main

    main()
