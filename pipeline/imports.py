"""Stages that were computed outside the pipeline, as entries of the store.

`benchmarks.paper_scale` leaves plain folders (`nenni_core.chain.record`) and a parameter file. What an
experiment of that file asks of a stage is worked out by the pipeline's own configuration; a folder that was
computed from exactly these settings, seed and inputs is the stage, whatever its name.
"""

import importlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from nenni_core.chain.artifacts import DATASET
from nenni_core.chain.record import (
    EVALUATION,
    RECORD,
    Record,
    identity,
    load_evaluation,
    read_record,
)
from nenni_core.errors import InputError
from nenni_core.files import read_json, sha256_of
from pipeline.experiment import Experiment, ExperimentSet
from pipeline.keys import VERSIONS, stage_config, stage_keys, stage_section, stage_seed, upstream
from pipeline.provenance import code_digest
from pipeline.runner import Plan
from pipeline.store import Entry, Manifest, Store

PARAMETERS = "params.json"


class Recorded(NamedTuple):
    """A finished stage outside the store."""

    folder: Path
    record: Record


def import_chain(
    folder: Path, parameters: ExperimentSet, store: Store, report: Callable[[str], None]
) -> list[Plan]:
    """Make entries of what is finished in `folder` of the experiments of `parameters`; returns their plans.

    What is in the store already stays. `report` is told, in a line each, what was imported.

    Raises:
        InputError: nothing of these experiments is there, files are not those that were written, a stage was
            computed from other inputs than those beside it, or by another version of it.
    """
    found = {stage.record.identity: stage for stage in _recorded(folder)}
    prints = sorted({stage.record.data_fingerprint for stage in found.values()})
    plans: list[Plan] = []
    imported: dict[tuple[str, str], Entry] = {}
    for fingerprint in prints:
        for experiment in parameters.experiments():
            planned = Plan(experiment, stage_keys(experiment, fingerprint), fingerprint)
            identities = _identities(experiment, fingerprint)
            if not any(name in found for name in identities.values()):
                continue
            plans.append(planned)
            for stage in experiment.stages:
                reads = planned.upstream_keys(stage)
                here = found.get(identities.get(stage, ""))
                name = stage, planned.keys[stage]
                if here is None or name in imported or any(item not in imported for item in reads.items()):
                    continue
                inputs = {before: found[identities[before]] for before in reads}
                entries = {before: imported[before, key] for before, key in reads.items()}
                imported[name] = _import(stage, planned, here, inputs, entries, store, report)
    if not imported:
        raise InputError(f"nothing in {str(folder)!r} is of the experiments of its parameter file")
    return plans


def _recorded(folder: Path) -> Iterator[Recorded]:
    for path in sorted(folder.glob(f"[!.]*/{RECORD}")):
        yield Recorded(path.parent, read_record(path.parent))


def _identities(experiment: Experiment, fingerprint: str) -> dict[str, str]:
    """The identity of each stage that can be computed outside the pipeline, as its record would have it."""
    known: dict[str, str] = {}
    for stage in experiment.stages:
        reads = upstream(stage, experiment)
        settings_of = getattr(importlib.import_module(f"pipeline.stages.{stage}"), "settings_of", None)
        if settings_of is None or any(before not in known for before in reads):
            continue
        settings = settings_of(stage_section(stage, experiment))
        before = {name: known[name] for name in reads}
        known[stage] = identity(stage, settings, stage_seed(stage, experiment), before, fingerprint)
    return known


def _import(
    stage: str,
    planned: Plan,
    here: Recorded,
    inputs: Mapping[str, Recorded],
    entries: Mapping[str, Entry],
    store: Store,
    report: Callable[[str], None],
) -> Entry:
    record, key = here.record, planned.keys[stage]
    for before, source in inputs.items():
        if record.upstream_digests[before] != source.record.digest:
            raise InputError(
                f"{str(here.folder)!r} was computed from another {before} than {str(source.folder)!r}; "
                "expected the chain as it was written"
            )
    if record.version != VERSIONS[stage]:
        raise InputError(
            f"{str(here.folder)!r} was computed by version {record.version} of the stage {stage}; "
            f"expected {VERSIONS[stage]}, that of this code"
        )
    digests = {before: entry.manifest.digest for before, entry in entries.items()}
    subject = f"{stage} {planned.subject(stage)} {key[:12]}"
    with store.locked(stage, key):
        entry = store.recover(stage, key)
        if entry is not None and entry.manifest.upstream_digests == digests:
            report(f"{subject}: already there")
            return entry
        store.discard(stage, key)
        out = store.begin(stage, key)
        for name, digest in record.files.items():
            if name == EVALUATION:
                continue
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(here.folder / name, out / name)
            if sha256_of(out / name) != digest:
                raise InputError(f"{str(here.folder / name)!r} changed while it was copied")
        _draw(stage, here.folder, out, inputs)
        entry = store.commit(_manifest(planned, stage, record, digests))
    other = "" if record.code == code_digest() else ", by other code than this"
    report(f"{subject}: imported, computed on {record.device_name} in {record.seconds:.1f} s{other}")
    return entry


def _draw(stage: str, folder: Path, out: Path, inputs: Mapping[str, Recorded]) -> None:
    """Add the pictures and tables that the pipeline adds."""
    module: Any = importlib.import_module(f"pipeline.stages.{stage}")
    if stage == "attack":
        names = read_json(inputs["prepare"].folder / DATASET)["class_names"]
        module.draw(out, *load_evaluation(folder), names)
    else:
        module.draw(out)


def _manifest(planned: Plan, stage: str, record: Record, upstream_digests: dict[str, str]) -> Manifest:
    experiment = planned.experiment
    return Manifest(
        stage=stage,
        key=planned.keys[stage],
        stage_version=record.version,
        config=stage_config(stage, experiment),
        seed=record.seed,
        upstream=planned.upstream_keys(stage),
        upstream_digests=upstream_digests,
        data_fingerprint=planned.data_fingerprint,
        metrics=record.metrics,
        files={},
        git_commit=record.git_commit,
        git_dirty=record.git_dirty,
        code=record.code,
        versions=record.versions,
        device=record.device,
        threads=record.threads,
        seconds=record.seconds,
        resumed=record.resumed,
        imported_from=record.device_name,
    )
