"""A graph of stages executed by Ray Tune: each trial is one stage.

Tune only dispatches. Which stage comes next is the schedule's choice, what is done is the store's to say, and
no sweep rests on Tune's own state: the next one plans afresh. Ray is set up for that: processes are kept for
the next stage (a hundred times faster than Tune's default), several trials may be pending, nothing is sent to
anybody.
"""

import os
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from nenni_core.errors import InputError
from pipeline.graph import NodeId
from pipeline.remote_store import CACHE, CACHE_VARIABLE
from pipeline.resources import Capacity, Request
from pipeline.schedule import Schedule, State
from pipeline.stage_trial import Job, Outcome, log_path, timed_out

LOOK_AT_MACHINES = 5.0
"""Seconds between two looks at which machines there are."""
WAIT_FOR_MACHINES = 60.0
"""Seconds that a stage waits for a machine to come back that has what it asks for."""
OBJECT_STORE_BYTES = 200_000_000
"""Memory that Ray shares between processes: only the plan of the sweep goes through it."""
NOT_SHIPPED = (".git", ".venv", ".dvc", "store*", "mlartifacts", "mlflow.db*", "reports", "outputs", "docs")
"""What in a checkout is not code."""
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_MAX_PENDING_TRIALS_PG": "16",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # nothing is restored from it
    "TUNE_FORCE_TRIAL_CLEANUP_S": "2",
}
"""Read by Ray when it is imported, or later."""


class Observer(Protocol):
    """Who follows the execution. Must not raise."""

    def started(self, name: NodeId) -> None:
        """A stage was given to a worker."""

    def ended(self, name: NodeId, outcome: Outcome) -> None:
        """A stage is in the store, or has failed for good; the schedule knows already."""

    def again(self, name: NodeId, reason: str) -> None:
        """An attempt failed and there will be another."""

    def tick(self) -> None:
        """Some time went by."""


class SweepStopped(Exception):
    """Raised inside Tune's loop to leave it."""


@dataclass
class Control:
    """Asks a running execution to stop."""

    reason: str | None = None

    def stop(self, reason: str) -> None:
        """Start nothing any more and end what runs; checkpoints stay. The first reason counts."""
        self.reason = self.reason or reason


@contextmanager
def cluster(address: str | None, *, cores: int | None) -> Iterator[Capacity]:
    """A connection to Ray at `address`, or Ray on this machine with so many `cores`; gives what it has.

    Raises `InputError` if there is no cluster at the address.
    """
    os.environ.update(ENVIRONMENT)
    root = str(Path(__file__).resolve().parent.parent)
    paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    if address is None:  # the workers share what this process has fetched
        os.environ.setdefault(CACHE_VARIABLE, str(Path(CACHE).absolute()))
    if address is None:
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # its ports are open to the network
    import ray

    shared: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if address is None:
        folder = tempfile.mkdtemp(prefix="nenni-", dir=_short_folder())
        ray.init(
            num_cpus=cores,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            _temp_dir=folder,
            **shared,
        )
    else:
        folder = None
        try:
            ray.init(address=address, runtime_env=_shipped_code(root), **shared)
        except (ConnectionError, RuntimeError, ValueError) as error:
            first_line = (str(error).splitlines() or [""])[0]
            raise InputError(f"--address {address!r}: no Ray cluster answers there: {first_line}") from None
    try:
        yield Capacity(_machines())
    finally:
        ray.shutdown()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _short_folder() -> str | None:
    """Where Ray's sockets go: their paths may have some hundred characters only."""
    folder = tempfile.gettempdir()
    return folder if len(folder) < 40 else "/tmp"


def _shipped_code(root: str) -> dict[str, Any]:
    """The code of this checkout, for machines that have none or another one."""
    return {
        "working_dir": root,
        "excludes": [
            ".git",
            ".venv",
            "store*",
            "mlartifacts",
            "mlflow.db*",
            "reports",
            "outputs",
            "docs",
            ".dvc",
        ],
    }


def _machines() -> list[dict[str, float]]:
    """What the machines of the cluster have that are there now."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


@dataclass
class Execution:
    """One run of a schedule on a cluster."""

    schedule: Schedule
    job: Job
    requests: dict[str, Request]
    capacity: Capacity
    observer: Observer
    control: Control
    root: Path
    """The store's folder on this machine, with the log files of workers that share it."""
    max_concurrent: int | None = None
    on_success: Callable[[NodeId], None] = lambda name: None
    """Called in the driver when a stage is done, before others start."""
    _running: dict[str, tuple[NodeId, float]] = field(default_factory=dict)
    """Stage and start by trial."""
    _index: dict[NodeId, int] = field(default_factory=dict)
    _news: deque[Callable[[], None]] = field(default_factory=deque)
    """What Tune has told and was not dealt with yet."""
    _looked: float = 0.0
    _stuck_since: float | None = None

    def run(self, folder: Path) -> None:
        """Execute until nothing is left, or `control` says stop. `folder`: for Tune's own files.

        Afterwards no stage is in the state running.
        """
        self._index = {node.id: number for number, node in enumerate(self.job.nodes)}
        try:
            if not self.schedule.is_over:
                from pipeline.tune_trials import fit  # imports Ray, whose settings are in place now

                asked = {stage: request.for_ray() for stage, request in self.requests.items()}
                fit(self, self.job, asked, folder)
        except SweepStopped:
            pass
        finally:
            for name, _ in list(self._running.values()):
                self.schedule.give_up(name)
            self._running.clear()

    # --- called by Tune's loop: see `pipeline.tune_trials.Dispatch` ----------------------------------------

    @property
    def is_over(self) -> bool:
        """Whether no further trial will be suggested."""
        return self.schedule.is_over or self.control.reason is not None

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The next stage as a trial; None if there is none now."""
        if self.max_concurrent is not None and len(self._running) >= self.max_concurrent:
            return None
        name = self.schedule.next(lambda name: self.capacity.fits(self.requests[name.stage]))
        if name is None:
            return None
        self.capacity.take(self.requests[name.stage])
        self._running[trial_id] = name, time.monotonic()
        self.observer.started(name)
        return {"stage": name.stage, "node": self._index[name]}

    def completed(self, trial_id: str, outcome: Outcome) -> None:
        """A trial has come back."""
        # Tune swallows what is raised here, so that is done where it does not: in `tick`
        self._news.append(lambda: self._completed(trial_id, outcome))

    def died(self, trial_id: str, error: str) -> None:
        """The process of a trial has ended without a word."""
        self._news.append(lambda: self._died(trial_id, error))

    def _completed(self, trial_id: str, outcome: Outcome) -> None:
        name, _ = self._leave(trial_id)
        if outcome.reason is None:
            self.schedule.succeed(name)
            self.on_success(name)
            self.observer.ended(name, outcome)
        else:
            self._failed(name, outcome)

    def _died(self, trial_id: str, error: str) -> None:
        if trial_id not in self._running:
            return
        name, started = self._leave(trial_id)
        log = log_path(self.root, self.job.sweep, self.job.nodes[self._index[name]])
        limit = self.job.time_limit
        # on another machine's disk the log cannot be read; then the clock has to do
        too_long = timed_out(log) if log.exists() else time.monotonic() - started >= (limit or 0.0)
        if limit is not None and too_long:
            self._failed(name, Outcome(reason=f"took longer than the time limit of {limit:g} s"))
        else:
            self._failed(name, Outcome(reason=f"its process died: {error}", may_pass=True))

    def tick(self) -> None:
        """Called by Tune's loop several times a second. Raises `SweepStopped` to end it."""
        while self._news:
            self._news.popleft()()
        self.observer.tick()
        if self.control.reason is not None:
            raise SweepStopped
        now = time.monotonic()
        if now - self._looked >= LOOK_AT_MACHINES:
            self._looked = now
            self.capacity.update(_machines())
            self._give_up_if_stuck(now)

    def _leave(self, trial_id: str) -> tuple[NodeId, float]:
        name, started = self._running.pop(trial_id)
        self.capacity.give(self.requests[name.stage])
        return name, started

    def _failed(self, name: NodeId, outcome: Outcome) -> None:
        reason = outcome.reason or ""
        self.schedule.fail(name, reason, may_pass=outcome.may_pass)
        if self.schedule.states[name] is State.READY:
            self.observer.again(name, reason)
        else:
            self.observer.ended(name, outcome)

    def _give_up_if_stuck(self, now: float) -> None:
        """Stop if no machine has what any of the ready stages asks for, and none came for a while."""
        if self._running or not self.schedule.has_ready():
            self._stuck_since = None
            return
        self._stuck_since = self._stuck_since or now
        if now - self._stuck_since >= WAIT_FOR_MACHINES:
            self.control.stop("no machine is left that has what the remaining stages ask for")
