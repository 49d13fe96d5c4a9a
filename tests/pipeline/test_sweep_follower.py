"""What the driver of a sweep does about what happens, with stores of several machines and without Ray."""

from pathlib import Path
from typing import Any

import pytest
from remote_places import Machine
from stored_stages import plans_of, store_stage

from pipeline import sweep_display
from pipeline.graph import Graph, NodeId, build_graph
from pipeline.remaining import RemainingTime
from pipeline.remote_files import RemoteStoreError
from pipeline.schedule import Schedule, State
from pipeline.stage_trial import Outcome
from pipeline.store import Store
from pipeline.sweep_display import SweepDisplay
from pipeline.sweep_follower import Follower
from pipeline.sweep_records import Asked, Stopwatch, SweepFolder, known_failures
from pipeline.tune_execution import Control


def follower_of(graph: Graph, store: Store, folder: Path) -> Follower:
    schedule = Schedule(graph, seconds={})
    remaining = RemainingTime(graph, schedule, dict.fromkeys(graph.nodes))
    return Follower(
        graph=graph,
        schedule=schedule,
        store=store,
        folder=SweepFolder.create(folder, Asked(grid="tiny"), "digest", lambda line: None),
        display=SweepDisplay(graph, schedule, lambda: remaining.seconds(1)),
        remaining=remaining,
        control=Control(),
        watch=Stopwatch(),
        tracker=None,
        fail_fast=False,
        budget=None,
    )


def graph_of(content: dict[str, Any]) -> tuple[Graph, NodeId]:
    """The graph of a parameter file, and its data."""
    graph = build_graph((planned, ("attack",)) for planned in plans_of(content))
    [data] = [name for name in graph.nodes if name.stage == "prepare"]
    return graph, data


@pytest.mark.parametrize(("images", "enough"), [(20, True), (21, False)])
def test_data_that_another_machine_has_prepared_are_checked_here(
    tiny: dict[str, Any], machine: Machine, tmp_path: Path, images: int, enough: bool
) -> None:
    tiny["attack"]["images"] = images
    graph, data = graph_of(tiny)
    driver = follower_of(graph, machine(), tmp_path)
    store_stage(machine(), "prepare", graph.nodes[data].plan)  # by a worker with a disk of its own
    assert driver.schedule.next() == data
    driver.schedule.succeed(data)
    driver.check(data)
    failures = [failure.reason for failure in driver.schedule.failures.values()]
    assert driver.schedule.is_over is not enough
    assert bool(failures) is not enough
    assert all("attack.images is 21; expected at most 20" in reason for reason in failures)


def test_data_that_cannot_be_read_here_stop_nothing(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, data = graph_of(tiny)
    store = Store(tmp_path)
    driver = follower_of(graph, store, tmp_path)
    driver.check(data)  # on a shared disk that does not show it yet

    def refuse(stage: str, key: str) -> None:
        raise RemoteStoreError("no answer")

    monkeypatch.setattr(store, "find", refuse)
    driver.check(data)
    assert State.FAILED not in driver.schedule.states.values()


@pytest.mark.parametrize("may_pass", [True, False])
def test_only_what_would_fail_again_is_remembered(
    tiny: dict[str, Any], tmp_path: Path, may_pass: bool
) -> None:
    graph, data = graph_of(tiny)
    driver = follower_of(graph, Store(tmp_path), tmp_path)
    assert driver.schedule.next() == data
    driver.schedule.fail(data, "no", may_pass=False)  # its attempts are used up
    driver.ended(data, Outcome(reason="no", may_pass=may_pass))
    assert set(known_failures(tmp_path, graph.nodes)) == (set() if may_pass else {data})
    driver.ended(data, Outcome(seconds=1.0))  # --retry-failed, and it went well
    assert not known_failures(tmp_path, graph.nodes)


@pytest.mark.parametrize(
    ("seconds", "complete", "shown"),
    [
        (0.2, False, "time left not known yet"),
        (90.0, False, "at least 90 s left"),
        (90.0, True, "about 90 s left"),
    ],
)
def test_the_time_left_is_named_where_it_is_known(
    tiny: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
    complete: bool,
    shown: str,
) -> None:
    graph, _ = graph_of(tiny)
    monkeypatch.setattr(sweep_display, "EVERY", 0.0)
    SweepDisplay(graph, Schedule(graph, seconds={}), lambda: (seconds, complete)).tick()
    assert shown in capsys.readouterr().err
