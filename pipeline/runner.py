"""From an experiment to finished store entries: what is missing is computed, upstream first."""

import importlib
import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from nenni_core.data import fingerprint
from pipeline.experiment import Experiment
from pipeline.keys import VERSIONS, stage_config, stage_keys, stage_section, stage_seed, upstream
from pipeline.provenance import code_digest, commit, library_versions
from pipeline.runtime import RecordCallback, Runtime, ignore
from pipeline.store import Entry, Manifest, Store


@dataclass(frozen=True)
class Plan:
    """An experiment with the content keys of its stages."""

    experiment: Experiment
    keys: Mapping[str, str]
    data_fingerprint: str

    def upstream_keys(self, stage: str) -> dict[str, str]:
        """Keys of the entries that `stage` reads."""
        return {name: self.keys[name] for name in upstream(stage, self.experiment)}

    def subject(self, stage: str) -> str:
        """What the entry of `stage` is of, in a word or two."""
        experiment = self.experiment
        if stage == "prepare":
            return experiment.prepare.dataset
        if stage in ("pretrain", "distill"):
            return f"{experiment.pretrain.model} on {experiment.prepare.dataset}"
        return experiment.label


def plan(experiments: Iterable[Experiment]) -> list[Plan]:
    """The keys of all stages of all experiments.

    Raises `InputError` if a data archive named by `prepare.path` is missing or not what it should be.
    """
    fingerprints: dict[tuple[str, str | None], str] = {}
    plans = []
    for experiment in experiments:
        source = experiment.prepare.dataset, experiment.prepare.path
        if source not in fingerprints:
            fingerprints[source] = fingerprint(source[0], path=source[1])
        found = fingerprints[source]
        plans.append(Plan(experiment, stage_keys(experiment, found), found))
    return plans


class StageFunction(Protocol):
    """`run` of a stage module: a pure function of its configuration, its inputs and its seed.

    It writes its files into `out` (what it needs for a restart into `out / SCRATCH`) and returns its metrics.
    """

    def __call__(
        self, config: Any, inputs: Mapping[str, Path], out: Path, *, seed: int, runtime: Runtime
    ) -> dict[str, float]: ...


class Observer(Protocol):
    """Who follows the work (`pipeline.tracking.Tracker`). Its own failures must not surface here."""

    def computing(self, stage: str, plan: Plan) -> AbstractContextManager[RecordCallback]:
        """Entered while a stage is computed; gives where live values go."""

    def finished(self, stage: str, plan: Plan, entry: Entry, *, cached: bool) -> None:
        """A stage is in the store; `cached` if it was there before."""


class Unobserved:
    """An `Observer` that looks away."""

    def computing(self, stage: str, plan: Plan) -> AbstractContextManager[RecordCallback]:
        return nullcontext(ignore)

    def finished(self, stage: str, plan: Plan, entry: Entry, *, cached: bool) -> None:
        return None


def ensure(
    stage: str,
    experiment: Experiment | Plan,
    *,
    store: Store,
    runtime: Runtime | None = None,
    observer: Observer | None = None,
) -> Entry:
    """The verified entry of `stage`; it and everything upstream of it is computed where it is missing.

    What a stage raises (`InputError`, `TrainingDiverged`, ...) passes through; its unfinished folder stays.
    """
    [planned] = [experiment] if isinstance(experiment, Plan) else plan([experiment])
    runtime, observer = runtime or Runtime(), observer or Unobserved()
    key = planned.keys[stage]
    entry = store.find(stage, key)
    if entry is None:
        inputs = {
            name: ensure(name, planned, store=store, runtime=runtime, observer=observer).path
            for name in upstream(stage, planned.experiment)
        }
        with store.locked(stage, key):
            entry = store.find(stage, key) or store.recover(stage, key)
            if entry is None:
                with observer.computing(stage, planned) as on_record:
                    live = replace(runtime, on_record=on_record)
                    entry = _compute(stage, planned, inputs, store, live)
                observer.finished(stage, planned, entry, cached=False)
                return entry
    observer.finished(stage, planned, entry, cached=True)
    return entry


def _compute(stage: str, planned: Plan, inputs: Mapping[str, Path], store: Store, runtime: Runtime) -> Entry:
    run: StageFunction = importlib.import_module(f"pipeline.stages.{stage}").run
    experiment, key = planned.experiment, planned.keys[stage]
    if experiment.prepare.path is not None:
        runtime = replace(runtime, data_path=Path(experiment.prepare.path))
    out = store.begin(stage, key)
    resumed = any(out.iterdir())
    seed = stage_seed(stage, experiment)
    start = time.perf_counter()
    metrics = run(stage_section(stage, experiment), inputs, out, seed=seed, runtime=runtime)
    seconds = time.perf_counter() - start
    state = commit()
    return store.commit(
        Manifest(
            stage=stage,
            key=key,
            stage_version=VERSIONS[stage],
            config=stage_config(stage, experiment),
            seed=seed,
            upstream=planned.upstream_keys(stage),
            data_fingerprint=planned.data_fingerprint,
            metrics=metrics,
            files={},
            git_commit=state.sha,
            git_dirty=state.dirty,
            code=code_digest(),
            versions=library_versions(),
            seconds=round(seconds, 3),
            resumed=resumed,
        )
    )
