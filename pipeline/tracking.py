"""Recording runs in MLflow, in one place. The store is the truth; MLflow can be made from it again.

A parent run stands for a set of experiments, a child run for every stage instance in it. Children are found
again by (parent, key): running the same set twice adds nothing, and a stage that was interrupted continues in
the run that it had. A tracking server that fails is reported once and never stops a stage;
`python -m pipeline.tracking sync --params params.yaml` catches up from the store afterwards.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from pipeline.command_line import Params, StoreFolder, new_app, say, user_errors
from pipeline.config import Tracking
from pipeline.experiment import STAGES, ExperimentSet, load_parameters
from pipeline.files import read_json
from pipeline.keys import canonical_json, stage_config, stage_seed
from pipeline.mlflow_backend import connect, exclusive, experiment_id, tracking_uri
from pipeline.provenance import commit
from pipeline.runner import Plan, plan
from pipeline.runtime import RecordCallback
from pipeline.store import TIMING, Entry, Store

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

PARENT = "mlflow.parentRunId"
WEIGHTS = ".safetensors"
"""Suffix of the files that stay in the store; the runs name their SHA-256."""


class Tracker:
    """An `Observer` that writes what it sees to MLflow. None of its methods raises.

    `report` gets one line if tracking fails; from then on the tracker does nothing.
    """

    def __init__(
        self,
        settings: Tracking,
        plans: Sequence[Plan],
        *,
        store: Store,
        report: Callable[[str], None] = say,
        uri: str | None = None,
    ) -> None:
        self._settings = settings
        self._plans = plans
        self._store = store
        self._report = report
        self._uri = uri or tracking_uri()
        self._session: _Session | None = None
        self._failed = False

    @contextmanager
    def computing(self, stage: str, plan: Plan) -> Iterator[RecordCallback]:
        """A run in state RUNNING while a stage is computed; FAILED with the error as a tag if it raises."""
        self._attempt(lambda session: session.begin(stage, plan, self._settings))

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
                self._session = _Session(self._uri, self._settings.experiment, self._plans)
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

    def __init__(self, uri: str, experiment: str, plans: Sequence[Plan]) -> None:
        self._client: MlflowClient = connect(uri)
        self._experiment = experiment_id(self._client, uri, experiment)
        self._wanted = {key for planned in plans for key in planned.keys.values()}
        with exclusive(uri):
            self._parent = self._find_or_create_parent(plans)
        # a set that is run again is the newest one, though its run is an old one
        self._client.set_tag(self._parent, "last_used_ms", str(int(time.time() * 1000)))
        self._children: dict[str, str] = {}
        self._done: set[str] = set()
        for run in self._search(f"tags.`{PARENT}` = '{self._parent}'"):
            self._children[run.data.tags["key"]] = run.info.run_id
            if run.info.status == "FINISHED":
                self._done.add(run.data.tags["key"])
        self._steps: dict[str, set[int]] = {}
        self._monitors: dict[str, Any] = {}

    def _search(self, condition: str) -> "Iterator[Run]":
        page = None
        while True:
            runs = self._client.search_runs([self._experiment], condition, max_results=1000, page_token=page)
            yield from runs
            page = runs.token
            if not page:
                return

    def _find_or_create_parent(self, plans: Sequence[Plan]) -> str:
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
        name = f"{first.pretrain.model} on {first.prepare.dataset}, seed {first.seed}"
        return self._client.create_run(self._experiment, tags=tags, run_name=name).info.run_id

    def begin(self, stage: str, plan: Plan, settings: Tracking) -> None:
        """Open the run of a stage, or continue the one that an interrupted process has left."""
        run_id = self._child(stage, plan, cached=False)
        key = plan.keys[stage]
        self._client.update_run(run_id, status="RUNNING")
        self._steps[key] = self._recorded_steps(run_id)
        if stage in settings.system_metrics:
            from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

            monitor = SystemMetricsMonitor(
                run_id, resume_logging=True, tracking_uri=self._client.tracking_uri
            )
            monitor.start()
            self._monitors[key] = monitor

    def record(self, key: str, values: Mapping[str, float], step: int) -> None:
        """One point of the live curves; a step that is there already stays as it is."""
        steps = self._steps.setdefault(key, set())
        if step not in steps:
            self._log(self._children[key], [(name, value, step) for name, value in values.items()])
            steps.add(step)

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
        if key in self._done:
            return
        run_id = self._child(stage, plan, cached=cached)
        steps = self._steps[key] if key in self._steps else self._recorded_steps(run_id)
        points = [(name, value, 0) for name, value in entry.metrics.items()]
        points.append(("seconds", entry.manifest.seconds, 0))
        points += _history_points(entry.path, steps)
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
        self._done.add(key)

    def close(self) -> None:
        """The parent is finished when all its stages are."""
        status = "FINISHED" if self._wanted <= self._done else "RUNNING"
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

    def _recorded_steps(self, run_id: str) -> set[int]:
        """Epochs whose values the run has."""
        return {metric.step for metric in self._client.get_metric_history(run_id, "train_loss")}

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
        context = "testing" if stage == "attack" else "training"
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
        canonical_json(sorted(planned.keys["attack"] for planned in plans)).encode()
    ).hexdigest()


def stage_tags(stage: str, plan: Plan) -> dict[str, str]:
    """What a run is of: known before it has run. Empty text where a tag does not apply."""
    experiment, state = plan.experiment, commit()
    tags = {
        "kind": "stage",
        "stage": stage,
        "key": plan.keys[stage],
        "upstream_keys": json.dumps(plan.upstream_keys(stage), sort_keys=True),
        "dataset": experiment.prepare.dataset,
        "data_fingerprint": plan.data_fingerprint,
        "seed": str(stage_seed(stage, experiment)),
        "git_commit": state.sha,
        "git_dirty": str(state.dirty).lower(),
    }
    if stage != "prepare":
        tags["model"] = experiment.pretrain.model
    if stage in ("finetune", "attack"):
        rule = experiment.finetune
        tags |= {
            "variant": experiment.label,
            "defence": "dense" if rule is None else "noise_injection",
            "ratio": "" if rule is None or rule.ratio is None else repr(rule.ratio),
            "pattern": "" if rule is None else rule.pattern or "",
            "objective": "" if rule is None else rule.objective,
            "target": "" if rule is None else rule.target,
            "selection": "" if rule is None else rule.selection,
            "randomize": "" if rule is None else experiment.distill.randomize,
        }
    return tags


def result_tags(entry: Entry) -> dict[str, str]:
    """What is known of a result only when it is there; the commit is the one that computed it."""
    manifest = entry.manifest
    tags = {
        "git_commit": manifest.git_commit,
        "git_dirty": str(manifest.git_dirty).lower(),
        "digest": manifest.digest,
        "versions": json.dumps(manifest.versions),
    }
    weights = {name: record.sha256 for name, record in manifest.files.items() if name.endswith(WEIGHTS)}
    if weights:
        tags["weights_sha256"] = json.dumps(weights)
    if "images" in manifest.metrics:
        tags["images"] = str(int(manifest.metrics["images"]))
    return tags


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested configuration as parameters with dotted names: `attacks.pgd20.eps` is "8/255"."""
    flat: dict[str, str] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value if isinstance(value, str) else json.dumps(value)
    return flat


def _history_points(folder: Path, recorded: set[int]) -> list[tuple[str, float, int]]:
    """Learning curves that the run does not have yet, and the seconds of everything."""
    points: list[tuple[str, float, int]] = []
    if (folder / "history.json").is_file():
        for row in read_json(folder / "history.json"):
            step = int(row.pop("epoch"))
            if step not in recorded:
                points += [(name, value, step) for name, value in row.items()]
    if (folder / TIMING).is_file():
        for name, value in read_json(folder / TIMING).items():
            if isinstance(value, list):
                points += [(name, seconds, step) for step, seconds in enumerate(value, start=1)]  # epochs
            else:
                points.append((name, value, 0))
    return points


app = new_app("Bring MLflow up to date with the store.")


@app.callback()
def commands() -> None:
    """Bring MLflow up to date with the store."""


@app.command()
def sync(params: Params = Path("params.yaml"), store: StoreFolder = Path("store")) -> None:
    """Record every finished stage of a parameter file that MLflow does not know yet."""
    with user_errors(ExperimentSet, params):
        parameters = load_parameters(params)
        plans = plan(parameters.experiments())
        opened = Store(store, say)
        tracker = Tracker(parameters.tracking, plans, store=opened)
        missing = set()
        for planned in plans:
            for stage in planned.experiment.stages:
                entry = opened.find(stage, planned.keys[stage])
                if entry is None:
                    missing.add((STAGES.index(stage), f"{stage} {planned.subject(stage)}"))
                else:
                    tracker.finished(stage, planned, entry, cached=True)
        tracker.close()
        for _, name in sorted(missing):
            say(f"not in the store: {name}")
        if tracker.has_failed:
            raise typer.Exit(1)


if __name__ == "__main__":
    app()
