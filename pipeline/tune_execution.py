"""A graph of stages executed by Ray Tune: each trial is one stage.

Tune only dispatches. Which stage comes next is the schedule's choice, what is done is the store's to say, and
no sweep rests on Tune's own state: the next one plans afresh. Processes are kept for the next stage, which is
a hundred times faster than Tune's default.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pipeline.graph import NodeId
from pipeline.ray_session import machines
from pipeline.resources import Capacity, Request
from pipeline.schedule import Schedule, State
from pipeline.stage_trial import Job, Outcome, log_path, timed_out

LOOK_AT_MACHINES = 5.0
"""Seconds between two looks at which machines there are."""
WAIT_FOR_MACHINES = 60.0
"""Seconds that a stage waits for a machine to come back that has what it asks for."""


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
    _index: dict[NodeId, int] = field(init=False)
    _news: deque[Callable[[], None]] = field(default_factory=deque)
    """What Tune has told and was not dealt with yet."""
    _looked: float = 0.0
    _stuck_since: float | None = None

    def __post_init__(self) -> None:
        self._index = {node.id: number for number, node in enumerate(self.job.nodes)}

    def run(self, folder: Path) -> None:
        """Execute until nothing is left, or `control` says stop. `folder`: for Tune's own files.

        Afterwards no stage is in the state running.
        """
        try:
            if not self.schedule.is_over:
                from pipeline.tune_trials import fit  # imports Ray, whose settings are in place now

                asked = {stage: request.for_ray() for stage, request in self.requests.items()}
                fit(self, self.job, asked, folder)
                if not self.is_over:
                    self.control.stop("Ray Tune has ended before its stages")
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
            # with another limit it may pass, with this one it would not
            reason = f"took longer than the time limit of {limit:g} s"
            self._failed(name, Outcome(reason=reason, may_pass=True), again=False)
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
            self.capacity.update(machines())
            self._give_up_if_stuck(now)

    def _leave(self, trial_id: str) -> tuple[NodeId, float]:
        name, started = self._running.pop(trial_id)
        self.capacity.give(self.requests[name.stage])
        return name, started

    def _failed(self, name: NodeId, outcome: Outcome, *, again: bool = True) -> None:
        reason = outcome.reason or ""
        self.schedule.fail(name, reason, may_pass=outcome.may_pass and again)
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
