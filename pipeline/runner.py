"""From an experiment to finished store entries: what is missing is computed, upstream first."""

import importlib
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from nenni_core.chain.runtime import RecordCallback, Runtime, ignore
from nenni_core.data import fingerprint
from nenni_core.progress import labelled
from pipeline.attempt import Work
from pipeline.data_check import check_data
from pipeline.experiment import Experiment
from pipeline.keys import (
    VERSIONS,
    Configurations,
    stage_config,
    stage_keys,
    stage_section,
    stage_seed,
    stages_before,
    upstream,
)
from pipeline.provenance import library_versions
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

    def stages_to(self, stage: str) -> tuple[str, ...]:
        """`stage` and all stages of the experiment that it rests on, in the order in which data flows."""
        return stages_before(stage, self.experiment)

    def subject(self, stage: str) -> str:
        """What the entry of `stage` is of, in a word or two."""
        experiment = self.experiment
        if stage == "prepare":
            return experiment.prepare.dataset
        if stage in ("pretrain", "defend", "distill"):
            by = experiment.training(stage).defense.label
            network = f"{experiment.pretrain.model} on {experiment.prepare.dataset}"
            return network if by == "adversarial" else f"{network}, {by}"
        return experiment.label


def plan(experiments: Iterable[Experiment]) -> list[Plan]:
    """The keys of all stages of all experiments.

    Raises `InputError` if a data archive named by `prepare.path` is missing or not what it should be.
    """
    fingerprints: dict[tuple[str, str | None], str] = {}
    configurations, plans = Configurations(), []
    for experiment in experiments:
        source = experiment.prepare.dataset, experiment.prepare.path
        if source not in fingerprints:
            fingerprints[source] = fingerprint(source[0], path=source[1])
        found = fingerprints[source]
        plans.append(Plan(experiment, stage_keys(experiment, found, configurations), found))
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

    def computing(self, stage: str, plan: Plan, *, resumed: bool) -> AbstractContextManager[RecordCallback]:
        """Entered while a stage is computed; gives where live values go. `resumed`: not from the start."""

    def finished(self, stage: str, plan: Plan, entry: Entry, *, cached: bool) -> None:
        """A stage is in the store; `cached` if it was there before."""


class Unobserved:
    """An `Observer` that looks away."""

    def computing(self, stage: str, plan: Plan, *, resumed: bool) -> AbstractContextManager[RecordCallback]:
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

    An entry that was computed from other inputs than those that are there now (a stage before it was computed
    again, with another result) is computed again too. What a stage raises (`InputError`, `TrainingDiverged`,
    ...) passes through; its unfinished folder stays.
    """
    [planned] = [experiment] if isinstance(experiment, Plan) else plan([experiment])
    runtime, observer = runtime or Runtime(), observer or Unobserved()
    entries: dict[str, Entry] = {}
    for name in planned.stages_to(stage):
        inputs = {before: entries[before] for before in upstream(name, planned.experiment)}
        entries[name] = _ensure(name, planned, inputs, store, runtime, observer)
        if name == "prepare":
            check_data(planned.experiment, entries[name].path)
    return entries[stage]


def ensure_one(
    stage: str,
    planned: Plan,
    *,
    store: Store,
    runtime: Runtime,
    observer: Observer | None = None,
) -> Entry:
    """`ensure` for a stage whose inputs are in the store: what is further upstream is not looked for.

    Inputs that are missing or damaged after all are computed again, as `ensure` does.
    """
    inputs: dict[str, Entry] = {}
    for before in upstream(stage, planned.experiment):
        entry = store.find(before, planned.keys[before])
        if entry is None:  # another machine may have put it there a moment ago
            store.refresh()
            entry = store.find(before, planned.keys[before])
        if entry is None:
            return ensure(stage, planned, store=store, runtime=runtime, observer=observer)
        inputs[before] = entry
    return _ensure(stage, planned, inputs, store, runtime, observer or Unobserved())


def _ensure(
    stage: str, planned: Plan, inputs: Mapping[str, Entry], store: Store, runtime: Runtime, observer: Observer
) -> Entry:
    key = planned.keys[stage]
    digests = {name: entry.manifest.digest for name, entry in inputs.items()}
    entry = store.find(stage, key)
    if entry is None or entry.manifest.upstream_digests != digests:
        with store.locked(stage, key):
            entry = store.recover(stage, key)
            if entry is not None and entry.manifest.upstream_digests != digests:
                store.set_aside(stage, key, "a stage before it was computed again, with another result")
                entry = None
            if entry is None:
                work = Work.begin(store, stage, key, digests)
                with observer.computing(stage, planned, resumed=work.resumed) as on_record:
                    live = replace(runtime, on_record=on_record)
                    entry = _compute(stage, planned, inputs, work, store, live)
                observer.finished(stage, planned, entry, cached=False)
                return entry
    observer.finished(stage, planned, entry, cached=True)
    return entry


def _compute(
    stage: str, planned: Plan, inputs: Mapping[str, Entry], work: Work, store: Store, runtime: Runtime
) -> Entry:
    import torch  # not at the top: slow, and not needed when everything is in the store

    run: StageFunction = importlib.import_module(f"pipeline.stages.{stage}").run
    experiment = planned.experiment
    if experiment.prepare.path is not None:
        runtime = replace(runtime, data_path=Path(experiment.prepare.path))
    progress = labelled(runtime.progress, f"{stage} {planned.subject(stage)}")
    runtime = replace(runtime, progress=work.timed(progress))
    paths = {name: entry.path for name, entry in inputs.items()}
    seed = stage_seed(stage, experiment)
    metrics = run(stage_section(stage, experiment), paths, work.out, seed=seed, runtime=runtime)
    return store.commit(
        Manifest(
            stage=stage,
            key=planned.keys[stage],
            stage_version=VERSIONS[stage],
            config=stage_config(stage, experiment),
            seed=seed,
            upstream=planned.upstream_keys(stage),
            upstream_digests=work.begun.upstream_digests,
            data_fingerprint=planned.data_fingerprint,
            metrics=metrics,
            files={},
            git_commit=work.begun.git_commit,
            git_dirty=work.begun.git_dirty,
            code=work.begun.code,
            versions=library_versions(),
            device=runtime.device_kind,
            threads=torch.get_num_threads(),
            seconds=work.seconds,
            resumed=work.resumed,
        )
    )
