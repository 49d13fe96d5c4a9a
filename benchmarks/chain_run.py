"""Computes the steps of a chain into plain folders (`nenni_core.chain.record`), in any number of calls."""

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.chain_plan import Chain, Step
from nenni_core.chain.attack import attack
from nenni_core.chain.distill import distill_teacher
from nenni_core.chain.finetune import finetune
from nenni_core.chain.prepare import prepare
from nenni_core.chain.pretrain import pretrain
from nenni_core.chain.record import (
    RECORD,
    Record,
    file_digests,
    folder_of,
    identity,
    plain,
    read_record,
    save_evaluation,
    write_record,
)
from nenni_core.chain.runtime import SCRATCH, Runtime
from nenni_core.chain.versions import VERSIONS
from nenni_core.errors import InputError
from nenni_core.files import read_json, sync_folder, write_json
from nenni_core.progress import Deadline
from pipeline.provenance import code_digest, commit, library_versions

ATTEMPT = "attempt.json"
SAVE_EVERY = 5.0
"""Seconds between two writes of the time spent: so much at most is missing for every kill."""

TRAINED: dict[str, Callable[..., dict[str, Any]]] = {
    "prepare": prepare,
    "pretrain": pretrain,
    "distill": distill_teacher,
    "finetune": finetune,
}
"""The stages that return nothing but metrics."""


@dataclass(frozen=True)
class Done:
    """A finished step."""

    step: Step
    folder: Path
    record: Record


def run_chain(
    chain: Chain,
    out: Path,
    *,
    data_fingerprint: str,
    runtime: Runtime,
    deadline: Deadline,
    on_done: Callable[[Done, bool], None] = lambda done, computed: None,
) -> list[Done]:
    """Compute what `chain` lacks in `out`; `on_done` is told of each step, and whether it was missing.

    Raises `OutOfTime` when the deadline passes: the same call goes on later, to the same bits on the same
    device. `InputError` if what is in `out` is not what was written, or not by this version of the stage.
    """
    finished: dict[tuple[str, str], Done] = {}
    for step in chain.steps():
        reads = {stage: finished[stage, label] for stage, label in step.upstream}
        upstream = {stage: done.record.identity for stage, done in reads.items()}
        own = identity(step.stage, step.settings, step.seed, upstream, data_fingerprint)
        folder = folder_of(out, step.stage, own)
        computed = not (folder / RECORD).is_file()
        if computed:
            deadline.begin()
            deadline.check()
            _compute(step, own, reads, data_fingerprint, folder, runtime, deadline)
        elif (folder / SCRATCH).exists():  # of a process that was killed when all was done
            shutil.rmtree(folder / SCRATCH)
        done = finished[step.stage, step.label] = Done(step, folder, _checked(step, folder, reads))
        on_done(done, computed)
    return list(finished.values())


def _checked(step: Step, folder: Path, reads: Mapping[str, Done]) -> Record:
    """The record of a finished step, which has to be of what is there now."""
    record = read_record(folder)
    version = VERSIONS[step.stage]
    problem = ""
    if record.version != version:
        problem = f"by version {record.version} of the stage; expected {version}, that of this code"
    for name, done in reads.items():
        if record.upstream_digests[name] != done.record.digest:
            problem = f"from another {name} than {str(done.folder)!r}; expected that one"
    if problem:
        remedy = "without the folder it is computed again"
        raise InputError(f"{str(folder)!r} was computed {problem} ({remedy})")
    return record


def _compute(
    step: Step,
    own: str,
    reads: Mapping[str, Done],
    data_fingerprint: str,
    folder: Path,
    runtime: Runtime,
    deadline: Deadline,
) -> None:
    """Compute a step in a folder beside, and give it its name when it is whole."""
    work = folder.with_name(f".partial-{folder.name}")
    if folder.exists():
        raise InputError(f"{str(folder)!r} has no {RECORD}; expected a finished stage or no such folder")
    digests = {stage: done.record.digest for stage, done in reads.items()}
    attempt, resumed = _begun(work, digests, VERSIONS[step.stage])
    saved = time.perf_counter()

    def save_seconds() -> None:
        nonlocal saved
        now = time.perf_counter()
        attempt["seconds"] += now - saved
        saved = now
        write_json(work / SCRATCH / ATTEMPT, attempt)

    def progress(description: str, completed: int, total: int) -> None:
        subject = f"{step.stage} {step.label}".rstrip()
        if time.perf_counter() - saved >= SAVE_EVERY:
            save_seconds()
        runtime.progress(f"{subject}: {description}", completed, total)
        deadline.progress(description, completed, total)

    shown = replace(runtime, progress=progress, on_record=deadline.on_record)
    inputs = {stage: done.folder for stage, done in reads.items()}
    try:
        metrics = _metrics(step, inputs, work, shown)
    finally:
        save_seconds()
    write_record(
        work,
        Record(
            stage=step.stage,
            version=VERSIONS[step.stage],
            identity=own,
            settings=plain(step.settings),
            seed=step.seed,
            upstream={stage: done.record.identity for stage, done in reads.items()},
            upstream_digests=digests,
            data_fingerprint=data_fingerprint,
            metrics=metrics,
            files=file_digests(work),
            git_commit=attempt["git_commit"],
            git_dirty=attempt["git_dirty"],
            code=attempt["code"],
            versions=library_versions(),
            device=runtime.device_kind,
            device_name=device_name(runtime.device),
            threads=torch.get_num_threads(),
            seconds=round(attempt["seconds"], 3),
            resumed=resumed,
        ),
    )
    work.rename(folder)
    sync_folder(folder.parent)
    shutil.rmtree(folder / SCRATCH)  # after it has its name: a kill between the two loses nothing


def _metrics(step: Step, inputs: Mapping[str, Path], work: Path, runtime: Runtime) -> dict[str, Any]:
    if step.stage == "attack":
        metrics, evaluation = attack(step.settings, inputs, work, seed=step.seed, runtime=runtime)
        save_evaluation(work, evaluation)
        return metrics
    return TRAINED[step.stage](step.settings, inputs, work, seed=step.seed, runtime=runtime)


def _begun(work: Path, upstream_digests: Mapping[str, str], version: int) -> tuple[dict[str, Any], bool]:
    """What is known of the work so far, and whether this version of the stage began it on these inputs."""
    path = work / SCRATCH / ATTEMPT
    if path.is_file():
        attempt = read_json(path)
        if (attempt["upstream_digests"], attempt.get("version")) == (dict(upstream_digests), version):
            return attempt, True
    shutil.rmtree(work, ignore_errors=True)
    state = commit()
    attempt = {
        "upstream_digests": dict(upstream_digests),
        "version": version,
        "git_commit": state.sha,
        "git_dirty": state.dirty,
        "code": code_digest(),
        "seconds": 0.0,
    }
    write_json(path, attempt)
    return attempt, False


def device_name(device: str) -> str:
    """What PyTorch calls the GPU; "cpu" for anything else."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu"
