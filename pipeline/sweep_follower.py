"""What the driver of a sweep does about what happens."""

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from nenni_core.errors import InputError
from pipeline.background_tracker import BackgroundTracker
from pipeline.command_line import PlainProgress, duration, say
from pipeline.data_check import check_data
from pipeline.graph import Graph, NodeId
from pipeline.remaining import RemainingTime
from pipeline.schedule import Schedule, State
from pipeline.stage_trial import Outcome, log_path
from pipeline.store import Store
from pipeline.sweep_display import SweepDisplay, show_summary
from pipeline.sweep_records import (
    End,
    FailureRecord,
    Stopwatch,
    SweepFolder,
    forget_failure,
    remember_failure,
)
from pipeline.tune_execution import Control

INTERRUPTED = "interrupted"
"""The reason to stop that Ctrl-C gives."""
FAILED_FAST = "a stage failed (--fail-fast)"
"""The reason to stop that a failure gives where it is to stop everything."""
TRACKING_PATIENCE = 600.0
"""Seconds that the end of a sweep waits for MLflow; `python -m pipeline.tracking sync` catches up."""


@dataclass
class Follower:
    """What the driver does about what happens: says it, records it, checks, and stops when it is time."""

    graph: Graph
    schedule: Schedule
    store: Store
    folder: SweepFolder
    display: SweepDisplay
    remaining: RemainingTime
    control: Control
    watch: Stopwatch
    tracker: BackgroundTracker | None
    fail_fast: bool
    budget: float | None
    """Seconds after which what runs is stopped and nothing more is started."""
    logs: dict[NodeId, Path] = field(default_factory=dict)
    """Log files of stages that failed in earlier sweeps."""

    def begin(self, cached: Collection[NodeId], failed: Mapping[NodeId, FailureRecord]) -> None:
        """Record what is there; leave alone what has `failed` before."""
        for name in self.graph.nodes:
            if name in cached:
                self._record(name, cached=True)
                self.check(name)
            elif (known := failed.get(name)) is not None:
                self.logs[name] = Path(known.log)
                reason = f"{known.reason} (on {known.when}; --retry-failed tries again)"
                self.schedule.fail(name, reason, may_pass=False)
                self.display.event(name, f"failed before: {known.reason}")

    def check(self, name: NodeId) -> None:
        """When data are there: whether they are enough for the experiments that use them."""
        if name.stage != "prepare":
            return
        try:
            prepared = self.store.find(*name)  # another machine may have prepared them: then they are fetched
        except OSError:
            prepared = None
        if prepared is None:  # out of reach from here; the stages that ask for too much will say so
            return
        wrong: dict[int, str] = {}
        for user in self.graph.users[name]:
            try:
                check_data(self.graph.plans[user].experiment, prepared.path)
            except InputError as error:
                wrong[user] = str(error)
        for other, users in self.graph.users.items() if wrong else ():
            waits = self.schedule.states[other] in (State.WAITING, State.READY)
            if waits and other.stage != "prepare" and all(user in wrong for user in users):
                self._fail(other, wrong[users[0]])

    def started(self, name: NodeId) -> None:
        """Of `Observer`."""

    def ended(self, name: NodeId, outcome: Outcome) -> None:
        """Of `Observer`."""
        if outcome.reason is not None:
            self._fail(name, outcome.reason, log_tail=outcome.log_tail, will_again=not outcome.may_pass)
            return
        computed = f"computed in {duration(outcome.seconds)}"
        self.display.event(name, "another sweep was faster" if outcome.cached else computed)
        self.remaining.took(name, outcome.seconds)
        self.folder.event(name, {"state": "done", "seconds": outcome.seconds})
        with suppress(OSError):  # then it will be tried again
            forget_failure(self.store.root, name)
        self._record(name, cached=outcome.cached)

    def again(self, name: NodeId, reason: str) -> None:
        """Of `Observer`."""
        self.display.event(name, f"{reason}; trying again")
        self.folder.event(name, {"state": "again", "reason": reason})

    def tick(self) -> None:
        """Of `Observer`."""
        self.display.tick()
        if self.budget is not None and self.watch.seconds >= self.budget:
            self.control.stop("the time budget is spent")

    def finish(self) -> End:
        """Wait for the tracking, show and record how it ended."""
        schedule = self.schedule
        interrupted = self.control.reason == INTERRUPTED
        end: End = "complete"
        if interrupted:
            end = "interrupted"
        elif not schedule.is_over and self.control.reason != FAILED_FAST:
            end = "incomplete"
        elif schedule.failures:
            end = "failed"
        if self.tracker is not None:
            if interrupted:
                self.tracker.abandon()
            patience = 5.0 if interrupted else TRACKING_PATIENCE
            total, progress = self.tracker.left, PlainProgress(say)
            recorded = self.tracker.close(
                patience=patience,
                on_wait=lambda left: progress("recording in MLflow", total - left, total),
            )
            if not recorded and not interrupted:
                say("warning: MLflow was too slow; the same command records the rest")
        show_summary(self.graph, schedule, self._log_files())
        counts = {state.value: schedule.count(state) for state in State}
        self.folder.close(
            end, {"stages": counts, "seconds": round(self.watch.seconds, 1), "reason": self.control.reason}
        )
        how = {
            "complete": "complete",
            "failed": "failed",
            "interrupted": "interrupted",
            "incomplete": f"incomplete: {self.control.reason}",
        }[end]
        say(f"sweep {self.folder.record.id}: {how} after {duration(self.watch.seconds)}; {self.folder.path}")
        if end in ("incomplete", "interrupted"):
            command = f"python -m pipeline.sweep --resume {self.folder.record.id}"
            say(f"{command} --store {self.store.location} goes on")
        return end

    def _fail(self, name: NodeId, reason: str, *, log_tail: str = "", will_again: bool = True) -> None:
        """A stage has failed for good; `will_again`: it would with the same code, so a later sweep knows."""
        if self.schedule.states[name] is not State.FAILED:
            self.schedule.fail(name, reason, may_pass=False)
        log = self._log_file(name)
        if log_tail and not log.exists():  # the worker has another disk
            with suppress(OSError):  # the reason is shown anyway
                log.parent.mkdir(parents=True, exist_ok=True)
                log.write_text(log_tail, encoding="utf-8")
        self.display.event(name, f"failed: {reason}")
        self.folder.event(name, {"state": "failed", "reason": reason, "log": str(log)})
        if will_again:
            remember_failure(self.store.root, name, reason, log)
        if self.fail_fast:
            self.control.stop(FAILED_FAST)

    def _log_file(self, name: NodeId) -> Path:
        own = log_path(self.store.root, self.folder.record.id, self.graph.nodes[name])
        return self.logs.get(name) or own

    def _log_files(self) -> dict[NodeId, Path]:
        return {name: self._log_file(name) for name in self.schedule.failures}

    def _record(self, name: NodeId, *, cached: bool) -> None:
        if self.tracker is not None:
            planned = self.graph.nodes[name].plan
            self.tracker.finished(name.stage, planned, lambda: self.store.find(*name), cached=cached)
