"""One stage of a sweep, in the process of a worker."""

import errno
import faulthandler
import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nenni_core.chain.runtime import Runtime
from nenni_core.data import default_cache_dir
from nenni_core.device import choose_device, configure_torch
from nenni_core.errors import InputError
from pipeline.command_line import PlainProgress, say, silence_telemetry
from pipeline.graph import Node
from pipeline.provenance import Commit, assume_commit
from pipeline.remote_files import RemoteStoreError
from pipeline.remote_store import CACHE_VARIABLE
from pipeline.runner import Plan, Unobserved, ensure_one
from pipeline.store import Entry, Store, open_store
from pipeline.sweep_records import LOGS, SWEEPS

TAIL = 4000
"""Characters of a log that come back with a failure, for where the log's folder is not shared."""
MAY_PASS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ESTALE}
"""Errors of the machine, not of the work."""
TIMED_OUT = "Timeout ("
"""What Python's fault handler writes when time is up."""


@dataclass(frozen=True)
class Job:
    """What all stages of a sweep share."""

    nodes: tuple[Node, ...]
    store: str
    """Where results go: a folder that all machines share, or a URL."""
    sweep: str
    """Name of the sweep, which log files are kept under."""
    device: str
    threads: dict[str, int]
    """CPU threads by kind of stage."""
    time_limit: float | None
    """Seconds after which a stage is taken to hang."""
    commit: Commit
    """Of the code that the sweep was started from: a worker may have a copy without git."""


@dataclass(frozen=True)
class Outcome:
    """How a stage ended that did not take its process with it."""

    seconds: float = 0.0
    """Of the computation, all attempts together."""
    cached: bool = False
    """Whether it was there already: another sweep was faster."""
    reason: str | None = None
    """Why it failed."""
    may_pass: bool = False
    """Whether the failure was of the machine, so that another attempt may succeed."""
    log_tail: str = ""


def log_path(root: Path, sweep: str, node: Node) -> Path:
    """The log file of a stage of a sweep, in the store's folder on this machine."""
    return root / SWEEPS / sweep / LOGS / f"{node.id.stage}-{node.id.key[:12]}.log"


def run_stage(job: Job, index: int) -> Outcome:
    """Compute one stage into the store. Raises nothing that the stage's own code raises.

    If the stage takes longer than the time limit, its traceback is written to the log and the process ends.
    """
    node = job.nodes[index]
    # a worker of a cluster may be in any folder, also one that Ray removes after it
    os.environ.setdefault(CACHE_VARIABLE, str(default_cache_dir() / "stores"))
    try:
        store = open_store(job.store, say)
        log = log_path(store.root, job.sweep, node)
        log.parent.mkdir(parents=True, exist_ok=True)
        device = choose_device(job.device)
    except (OSError, InputError) as error:  # of this machine: another one, or another --device, may do
        return Outcome(reason=_reason(error), may_pass=True)
    try:
        with _into(log):
            try:
                return _compute(job, node, store, device)
            except Exception as error:  # whatever the stage came up with
                traceback.print_exc()
                sys.stderr.flush()
                tail = _content(log)[-TAIL:]
                return Outcome(reason=_reason(error), may_pass=may_pass(error), log_tail=tail)
    except OSError as error:  # the log itself
        return Outcome(reason=_reason(error), may_pass=True)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]


def _compute(job: Job, node: Node, store: Store, device: str) -> Outcome:
    silence_telemetry()
    assume_commit(job.commit)
    stage = node.id.stage
    configure_torch(job.threads[stage], device)
    say(f"{node.name} {node.id.key}: starts on {os.uname().nodename}, process {os.getpid()}")
    watcher = _Watcher()
    if job.time_limit is not None:
        # a thread of C: it ends the process even where Python's own threads are stuck
        faulthandler.dump_traceback_later(job.time_limit, exit=True, file=sys.stderr)
    try:
        entry = ensure_one(
            stage,
            node.plan,
            store=store,
            runtime=Runtime(device=device, progress=PlainProgress(say)),
            observer=watcher,
        )
    finally:
        faulthandler.cancel_dump_traceback_later()
    say(f"{node.name}: {'was already there' if watcher.cached else 'done'}")
    return Outcome(seconds=entry.manifest.seconds, cached=watcher.cached)


class _Watcher(Unobserved):
    """Notes whether the stage itself was computed."""

    cached = False

    def finished(self, stage: str, plan: Plan, entry: Entry, *, cached: bool) -> None:
        self.cached = cached  # of the last one, which is the stage that was asked for


def may_pass(error: BaseException) -> bool:
    """Whether an error is of the machine or the network, so that another attempt may succeed."""
    out_of_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    unreachable = isinstance(error, RemoteStoreError | ConnectionError | TimeoutError)
    return out_of_memory or unreachable or _errno(error) in MAY_PASS


def _errno(error: BaseException) -> int | None:
    """The system's number of an error; libraries in Rust, such as safetensors, give it in the text."""
    if isinstance(error, OSError):
        return error.errno
    told = re.search(r"\(os error (\d+)\)", str(error))
    return int(told[1]) if told else None


def _content(log: Path) -> str:
    try:
        return log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


@contextmanager
def _into(log: Path) -> Iterator[None]:
    """Everything that this process writes, libraries and compiled code included, goes to a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [(descriptor, os.dup(descriptor)) for descriptor in (1, 2)]
    outputs = sys.stdout, sys.stderr
    with log.open("a", encoding="utf-8", buffering=1) as file:
        for descriptor, _ in kept:
            os.dup2(file.fileno(), descriptor)
        sys.stdout = sys.stderr = file
        try:
            yield
        finally:
            sys.stdout, sys.stderr = outputs
            for descriptor, copy in kept:
                os.dup2(copy, descriptor)
                os.close(copy)


def timed_out(log: Path) -> bool:
    """Whether the last thing that a log tells is that time was up; where all threads were may take pages."""
    text = _content(log)
    return TIMED_OUT in text and "starts on" not in text[text.rindex(TIMED_OUT) :]


def as_result(outcome: Outcome) -> dict[str, Any]:
    """The outcome as Tune passes it to the driver; the trial is over."""
    return {"outcome": outcome, "done": True}
