"""What a sweep shows: a bar with the time left or plain lines, what is planned, how it ended."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from pipeline.command_line import duration, say
from pipeline.costs import Estimate, total
from pipeline.experiment import STAGES
from pipeline.graph import Graph, NodeId
from pipeline.planning import Survey
from pipeline.schedule import FINISHED, Schedule, State

EVERY = 15.0
"""Seconds between two lines on how far it is, where there is no terminal."""
MOST_FAILURES = 50
"""Lines of the table of failures; all of them are in `events.jsonl`."""

Remaining = Callable[[], tuple[float, bool]]


class SweepDisplay:
    """Shows where a sweep stands."""

    def __init__(self, graph: Graph, schedule: Schedule, remaining: Remaining) -> None:
        self._graph = graph
        self._schedule = schedule
        self._remaining = remaining
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._shown = time.monotonic()

    @contextmanager
    def live(self) -> Iterator[None]:
        """A bar on a terminal; lines go above it."""
        console = Console(stderr=True)
        if not console.is_terminal:
            yield
            return
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        with Progress(*columns, TextColumn("{task.fields[left]}"), console=console, transient=True) as bar:
            self._bar = bar
            self._task = bar.add_task("stages", total=len(self._graph.nodes), completed=self._ended, left="")
            try:
                yield
            finally:
                self._bar = None

    @property
    def _ended(self) -> int:
        return sum(self._schedule.count(state) for state in (*FINISHED, State.FAILED, State.SKIPPED))

    def line(self, text: str) -> None:
        """One line that stays."""
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False)
        else:
            say(text)

    def event(self, name: NodeId, what: str) -> None:
        """Something happened to a stage."""
        self.line(f"[{self._ended} of {len(self._graph.nodes)}] {self._graph.nodes[name].name}: {what}")

    def tick(self) -> None:
        """Bring the bar, or now and then the log, up to date."""
        now = time.monotonic()
        if now - self._shown < (1.0 if self._bar is not None else EVERY):
            return
        self._shown = now
        seconds, complete = self._remaining()
        left = f"{'about' if complete else 'at least'} {duration(seconds)} left"
        if not complete and seconds < 1.0:
            left = "time left not known yet"
        running = self._schedule.count(State.RUNNING)
        if self._bar is not None and self._task is not None:
            description = f"stages, {running} running"
            self._bar.update(self._task, completed=self._ended, left=left, description=description)
        else:
            say(f"  {self._ended} of {len(self._graph.nodes)} stages ended, {running} running, {left}")


Estimates = Mapping[NodeId, Estimate | None]


def show_plan(graph: Graph, survey: Survey, estimates: Estimates, cores: int | None) -> None:
    """What would be computed: stages by kind, core-hours with their range, and the longest path."""
    console = _console()
    table = Table(title=None, box=None, header_style="bold")
    for heading in ("stage", "in all", "in the store", "to compute", "core-hours", "80% range"):
        table.add_column(heading, justify="left" if heading == "stage" else "right")
    for stage in STAGES:
        names = [name for name in graph.nodes if name.stage == stage]
        if names:
            to_do = [name for name in names if name in survey.missing]
            cached = sum(name in survey.cached for name in names)
            table.add_row(stage, str(len(names)), str(cached), str(len(to_do)), *_hours(estimates, to_do))
    table.add_section()
    cached = len(survey.cached)
    everything = _hours(estimates, survey.missing)
    table.add_row("all", str(len(graph.nodes)), str(cached), str(len(survey.missing)), *everything)
    console.print(table)
    added, unknown = total(estimates, survey.missing)
    if unknown:
        console.print(
            f"{unknown} stages are of kinds that this store has never measured here: they are not counted."
        )
    path, seconds = critical_path(graph, survey, estimates)
    if path and not unknown:
        console.print(f"Longest path, {duration(seconds)}: {' -> '.join(graph.nodes[n].name for n in path)}")
    if added.middle and cores is not None:
        wall = max(added.middle / cores, seconds)
        console.print(f"On {cores} cores at least {duration(wall)}, if every stage uses one of them.")


def _hours(estimates: Estimates, names: Collection[NodeId]) -> list[str]:
    added, unknown = total(estimates, names)
    if not names:
        return ["0", ""]
    if unknown == len(names):
        return ["never measured", ""]
    prefix = "over " if unknown else ""
    return [f"{prefix}{_figure(added.middle)}", f"{_figure(added.low)} to {_figure(added.high)}"]


def _figure(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.3g}"


def critical_path(graph: Graph, survey: Survey, estimates: Estimates) -> tuple[list[NodeId], float]:
    """The chain of stages to be computed that takes longest, and its core-seconds."""
    seconds: dict[NodeId, float] = {}
    before: dict[NodeId, NodeId | None] = {}
    for node in graph.nodes.values():
        if node.id not in survey.missing:
            continue
        above = [name for name in node.upstream if name in seconds]
        before[node.id] = max(above, key=seconds.__getitem__, default=None)
        estimate = estimates[node.id]
        own = estimate.middle if estimate is not None else 0.0
        last = before[node.id]
        seconds[node.id] = own + (seconds[last] if last is not None else 0.0)
    if not seconds:
        return [], 0.0
    latest = max(seconds, key=seconds.__getitem__)
    length, path = seconds[latest], []
    name: NodeId | None = latest
    while name is not None:
        path.append(name)
        name = before[name]
    return path[::-1], length


def show_summary(graph: Graph, schedule: Schedule, logs: Mapping[NodeId, Path]) -> None:
    """How many stages of each kind ended how, and the reason and the log file of each failure."""
    console = _console()
    table = Table(box=None, header_style="bold")
    columns = (State.DONE, State.CACHED, State.FAILED, State.SKIPPED)
    for heading in ("stage", *columns, "left"):
        table.add_column(heading, justify="left" if heading == "stage" else "right")
    for stage in STAGES:
        of_stage = [state for name, state in schedule.states.items() if name.stage == stage]
        if of_stage:
            counts = [of_stage.count(state) for state in columns]
            table.add_row(stage, *map(str, counts), str(len(of_stage) - sum(counts)))
    console.print(table)
    for name, failure in list(schedule.failures.items())[:MOST_FAILURES]:
        times = f" (tried {failure.attempts} times)" if failure.attempts > 1 else ""
        for line in (f"failed: {graph.nodes[name].name}: {failure.reason}{times}", f"        {logs[name]}"):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    if (more := len(schedule.failures) - MOST_FAILURES) > 0:
        console.print(f"... and {more} more")


def _console() -> Console:
    """Standard output, not cut where it is no terminal."""
    return Console(width=None if Console().is_terminal else 140)
