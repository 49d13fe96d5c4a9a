"""What the driver does with what Tune tells, without Ray."""

import errno
from pathlib import Path

import pytest
from safetensors import SafetensorError
from tiny_experiment import TINY

from nenni_core.errors import InputError
from pipeline import tune_execution
from pipeline.experiment import ExperimentSet
from pipeline.graph import Graph, NodeId, build_graph
from pipeline.provenance import Commit
from pipeline.remote_files import RemoteStoreError
from pipeline.resources import Capacity, Request, requests
from pipeline.runner import plan
from pipeline.schedule import Schedule, State
from pipeline.stage_trial import TIMED_OUT, Job, Outcome, log_path, may_pass
from pipeline.tune_execution import WAIT_FOR_MACHINES, Control, Execution, SweepStopped

MACHINE = {"CPU": 4.0, "memory": 8e9}
OVER = 5.0


class Noting:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.told: list[tuple[str, NodeId, str | None]] = []

    def started(self, name: NodeId) -> None:
        self.told.append(("started", name, None))

    def ended(self, name: NodeId, outcome: Outcome) -> None:
        self.told.append(("ended", name, outcome.reason))

    def again(self, name: NodeId, reason: str) -> None:
        self.told.append(("again", name, reason))

    def tick(self) -> None:
        """Nothing."""


@pytest.fixture
def graph() -> Graph:
    """One network with noise and the dense one: six stages."""
    experiments = ExperimentSet.model_validate(TINY).experiments()
    return build_graph((planned, ("attack",)) for planned in plan(experiments))


@pytest.fixture
def execution(graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Execution:
    """With four cores, of which each stage takes one."""
    monkeypatch.setattr(tune_execution, "machines", lambda: [MACHINE])
    job = Job(
        nodes=tuple(graph.nodes.values()),
        store=str(tmp_path),
        sweep="it",
        device="cpu",
        threads={},
        time_limit=OVER,
        commit=Commit("", False),
    )
    return Execution(
        schedule=Schedule(graph, seconds={}, retries=1),
        job=job,
        requests=requests({}, gpus=0),
        capacity=Capacity([MACHINE]),
        observer=Noting(),
        control=Control(),
        root=tmp_path,
    )


def told(execution: Execution) -> list[tuple[str, NodeId, str | None]]:
    assert isinstance(execution.observer, Noting)
    return execution.observer.told


def finish(execution: Execution, trial: str) -> None:
    execution.completed(trial, Outcome(seconds=1.0))
    execution.tick()


def test_a_stage_is_suggested_when_its_inputs_are_there(execution: Execution, graph: Graph) -> None:
    nodes = list(graph.nodes.values())
    seen: list[str] = []
    execution.on_success = lambda name: seen.append(name.stage)
    trials = 0
    while not execution.is_over:
        running = []
        while (config := execution.suggest(str(trials))) is not None:
            assert nodes[config["node"]].id.stage == config["stage"]
            assert {name.stage for name in nodes[config["node"]].upstream} <= set(seen)
            running.append(str(trials))
            trials += 1
        assert running
        for trial in running:
            finish(execution, trial)
    assert trials == len(graph.nodes)
    assert len(seen) == trials


def test_no_more_at_a_time_than_was_asked_for(execution: Execution) -> None:
    finish_of = iter(range(100))
    execution.max_concurrent = 1
    while not execution.is_over:
        trial = str(next(finish_of))
        assert execution.suggest(trial) is not None
        assert execution.suggest("another") is None
        finish(execution, trial)


def test_a_death_is_tried_again_once_and_then_is_a_failure(execution: Execution, graph: Graph) -> None:
    [first, *others] = graph.nodes
    for trial in ("one", "two"):
        assert execution.suggest(trial) is not None
        execution.died(trial, "signal 9")
        execution.tick()
    [_, again, _, ended] = told(execution)
    assert again == ("again", first, "its process died: signal 9")
    assert ended == ("ended", first, "its process died: signal 9")
    assert execution.schedule.states[first] is State.FAILED
    assert {execution.schedule.states[name] for name in others} == {State.SKIPPED}
    assert execution.is_over
    assert execution.capacity.fits(Request(cpus=4))  # nothing is held


def test_a_mistake_in_the_code_is_not_tried_again(execution: Execution, graph: Graph) -> None:
    execution.suggest("one")
    execution.completed("one", Outcome(reason="ValueError: no"))
    execution.tick()
    assert told(execution)[-1] == ("ended", next(iter(graph.nodes)), "ValueError: no")


def test_a_stage_that_took_too_long_is_not_tried_again(execution: Execution, graph: Graph) -> None:
    node = next(iter(graph.nodes.values()))
    log = log_path(execution.root, "it", node)
    log.parent.mkdir(parents=True)
    log.write_text(f"it starts on here, process 1\n{TIMED_OUT}0:00:05)!\nThread 1\n")
    execution.suggest("one")
    execution.died("one", "exit")
    execution.tick()
    assert told(execution)[-1] == ("ended", node.id, "took longer than the time limit of 5 s")


def test_an_earlier_timeout_in_the_log_is_not_that_of_this_attempt(
    execution: Execution, graph: Graph
) -> None:
    node = next(iter(graph.nodes.values()))
    log = log_path(execution.root, "it", node)
    log.parent.mkdir(parents=True)
    log.write_text(f"it starts on here\n{TIMED_OUT}0:00:05)!\nit starts on here, process 2\n")
    execution.suggest("one")
    execution.died("one", "signal 9")
    execution.tick()
    assert told(execution)[-1][0] == "again"


def test_a_death_that_is_told_late_is_not_counted(execution: Execution) -> None:
    execution.suggest("one")
    finish(execution, "one")
    execution.died("one", "its actor was stopped")
    execution.tick()
    assert [kind for kind, _, _ in told(execution)] == ["started", "ended"]


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), True),
        (MemoryError(), True),
        (RemoteStoreError("the server does not answer"), True),
        (ConnectionResetError(errno.ECONNRESET, "reset"), True),
        (FileNotFoundError(errno.ENOENT, "no such file"), False),
        (SafetensorError("(os error 2)"), False),
        (RuntimeError("a mistake"), False),
        (InputError("28"), False),
    ],
)
def test_errors_of_the_machine_may_pass(error: Exception, passes: bool) -> None:
    assert may_pass(error) is passes


def test_stopping_leaves_the_loop_and_suggests_nothing(execution: Execution) -> None:
    execution.control.stop("enough")
    execution.control.stop("later")
    assert execution.is_over
    with pytest.raises(SweepStopped):
        execution.tick()
    assert execution.control.reason == "enough"


def test_what_runs_when_it_is_stopped_waits_again(
    execution: Execution, graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(dispatch: Execution, *others: object) -> None:
        assert dispatch.suggest("one") is not None
        dispatch.control.stop("enough")
        dispatch.tick()

    monkeypatch.setattr("pipeline.tune_trials.fit", fit)
    execution.run(tmp_path)
    first = next(iter(graph.nodes))
    assert execution.schedule.states[first] is State.READY
    assert execution.schedule.count(State.RUNNING) == 0
    assert execution.schedule.attempts(first) == 0


def test_without_a_machine_for_what_is_left_it_stops(
    execution: Execution, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(tune_execution.time, "monotonic", lambda: now[0])
    execution.requests = {stage: Request(gpus=1) for stage in execution.requests}
    while now[0] < 2 * WAIT_FOR_MACHINES and execution.control.reason is None:
        now[0] += 1
        assert execution.suggest(str(now[0])) is None
        execution.tick()  # leaves the loop only when it is called again
    assert WAIT_FOR_MACHINES <= now[0] <= WAIT_FOR_MACHINES + 20
    assert "no machine" in (execution.control.reason or "")
    assert not execution.schedule.is_over
