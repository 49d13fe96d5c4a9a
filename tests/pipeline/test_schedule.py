"""The order of stages: nothing before its inputs, nothing twice, and never far from the best."""

import math
import random
from collections import Counter

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.virtual_workers import at_random, graph_of, longest_path, simulate
from pipeline.graph import Graph, NodeId
from pipeline.resources import Request
from pipeline.schedule import ENDED, PATIENCE, Schedule, State

seeds = st.integers(0, 2**32)
sizes = st.integers(1, 40)
COUNT = settings(max_examples=60, deadline=None)


def drawn(seed: int, size: int) -> tuple[random.Random, Graph, dict[NodeId, float]]:
    """A generator, a random graph and how long its stages take; some take no time."""
    draw = random.Random(seed)
    graph = at_random(size, np.random.default_rng(seed))
    return (
        draw,
        graph,
        {name: draw.choice([0.0, draw.random(), draw.expovariate(0.1)]) for name in graph.nodes},
    )


def as_networkx(graph: Graph) -> "nx.DiGraph[NodeId]":
    found: nx.DiGraph[NodeId] = nx.DiGraph()
    found.add_nodes_from(graph.nodes)
    found.add_edges_from((before, node.id) for node in graph.nodes.values() for before in node.upstream)
    return found


def independent(graph: Graph, number: int) -> list[NodeId]:
    return list(graph.nodes)[:number]


@COUNT
@given(seed=seeds, size=sizes, cores=st.integers(1, 6))
def test_inputs_come_first_nothing_runs_twice_and_no_more_than_there_is(
    seed: int, size: int, cores: int
) -> None:
    draw, graph, costs = drawn(seed, size)
    kinds = [Request(cpus=draw.choice([0.5, 1, 2, cores])) for _ in range(4)]
    asked = {
        name: draw.choice([kind for kind in kinds if kind.cpus <= cores] or [Request()])
        for name in graph.nodes
    }
    schedule = Schedule(graph, seconds=costs, group=asked.__getitem__)
    found = simulate(schedule, costs, cores, request=asked.__getitem__)
    assert Counter(name for name, _, _ in found.spans) == Counter(graph.nodes.keys())
    assert schedule.is_over
    assert set(schedule.states.values()) == {State.DONE}
    ends = {name: end for name, _, end in found.spans}
    for name, start, _ in found.spans:
        assert all(ends[before] <= start for before in graph.nodes[name].upstream)
        together = [other for other, begun, ended in found.spans if begun <= start < ended]
        assert sum(asked[other].cpus for other in together) <= cores + 1e-6


@COUNT
@given(seed=seeds, size=sizes, workers=st.integers(1, 8))
def test_list_scheduling_is_within_grahams_bound(seed: int, size: int, workers: int) -> None:
    """Graham (1966): no idle worker while a stage is ready, so makespan <= work / workers + longest path."""
    _, graph, costs = drawn(seed, size)
    work, path = sum(costs.values()), longest_path(graph, costs)
    makespan = simulate(Schedule(graph, seconds=costs), costs, workers).makespan
    assert max(path, work / workers) <= makespan + 1e-9
    assert makespan <= work / workers + path * (1 - 1 / workers) + 1e-9


@COUNT
@given(seed=seeds, size=sizes)
def test_one_worker_takes_the_work_and_enough_workers_the_longest_path(seed: int, size: int) -> None:
    _, graph, costs = drawn(seed, size)
    alone = simulate(Schedule(graph, seconds=costs), costs, 1).makespan
    assert math.isclose(alone, sum(costs.values()), abs_tol=1e-9)
    # networkx has weights on edges: a stage's cost is on every edge into it, and into a common end
    weighted = nx.DiGraph()
    for name, node in graph.nodes.items():
        for before in node.upstream or ("start",):
            weighted.add_edge(before, name, weight=costs[name])
    path = nx.dag_longest_path_length(weighted)
    assert math.isclose(longest_path(graph, costs), path, abs_tol=1e-9)
    assert math.isclose(simulate(Schedule(graph, seconds=costs), costs, size).makespan, path, abs_tol=1e-9)


@COUNT
@given(seed=seeds, size=sizes, workers=st.integers(1, 4), retries=st.integers(0, 2))
def test_a_failure_skips_what_rests_on_it_and_nothing_else(
    seed: int, size: int, workers: int, retries: int
) -> None:
    draw, graph, costs = drawn(seed, size)
    edges = as_networkx(graph)
    # of what is in the store, everything before it is too
    cached = {name for name in graph.nodes if draw.random() < 0.1}
    cached |= {before for name in cached for before in nx.ancestors(edges, name)}
    broken = {name for name in graph.nodes.keys() - cached if draw.random() < 0.15}
    passing = {name: draw.randint(0, 3) for name in graph.nodes.keys() - cached - broken}
    hopeless = {name for name, failures in passing.items() if failures > retries}
    schedule = Schedule(graph, seconds=costs, cached=cached, retries=retries)
    started: Counter[NodeId] = Counter()

    def end(name: NodeId) -> None:
        started[name] += 1
        if name in broken:
            schedule.fail(name, "broken", may_pass=False)
        elif started[name] <= passing[name]:
            schedule.fail(name, "the machine", may_pass=True)
        else:
            schedule.succeed(name)

    simulate(schedule, costs, workers, end=end)
    assert schedule.is_over
    wrong = broken | hopeless
    below = {after for name in wrong for after in nx.descendants(edges, name)}
    expected = dict.fromkeys(graph.nodes, State.DONE) | dict.fromkeys(cached, State.CACHED)
    expected |= dict.fromkeys(wrong - below, State.FAILED) | dict.fromkeys(below, State.SKIPPED)
    assert schedule.states == expected
    assert set(schedule.states.values()) <= ENDED
    assert {name: started[name] for name in wrong - below} == {
        name: 1 if name in broken else 1 + retries for name in wrong - below
    }
    assert {name: failure.attempts for name, failure in schedule.failures.items()} == {
        name: started[name] for name in wrong - below
    }
    assert all(started[name] == 1 + passing[name] for name, state in expected.items() if state is State.DONE)
    assert not any(started[name] for name in cached | below)
    assert Counter(schedule.states.values()) == {state: n for state in State if (n := schedule.count(state))}


def chain(*keys: str) -> Graph:
    names = [NodeId("finetune", key) for key in keys]
    return graph_of({name: names[max(0, index - 1) : index] for index, name in enumerate(names)})


def test_fail_names_the_skipped_in_their_order() -> None:
    graph = chain("a", "b", "c")
    schedule = Schedule(graph, seconds={})
    first = schedule.next()
    assert first == NodeId("finetune", "a")
    assert schedule.fail(first, "broken", may_pass=False) == [
        NodeId("finetune", "b"),
        NodeId("finetune", "c"),
    ]
    assert schedule.is_over
    assert schedule.next() is None


def test_a_stage_that_was_given_up_waits_again_and_loses_no_attempt() -> None:
    schedule = Schedule(chain("a"), seconds={}, retries=0)
    for _ in range(3):
        name = schedule.next()
        assert name is not None
        assert not schedule.has_ready()
        schedule.give_up(name)
        assert schedule.has_ready()
        assert schedule.attempts(name) == 0
    again = schedule.next()
    assert again is not None
    schedule.fail(again, "broken", may_pass=True)
    assert schedule.failures[again].attempts == 1


def test_what_failed_before_the_start_is_not_started() -> None:
    graph = chain("a", "b", "c")
    a, b, c = graph.nodes
    schedule = Schedule(graph, seconds={})
    assert schedule.fail(b, "failed last week", may_pass=False) == [c]
    simulate(schedule, dict.fromkeys(graph.nodes, 1.0), 1)
    assert schedule.states == {a: State.DONE, b: State.FAILED, c: State.SKIPPED}
    assert schedule.failures[b].attempts == 0


def test_a_stage_in_the_store_needs_nothing_of_what_it_read() -> None:
    whole = chain("a", "b", "c")
    a, b, c = whole.nodes
    schedule = Schedule(whole.of([b, c]), seconds={}, cached=[b])  # nobody needs a, and it is gone
    assert schedule.next() == c
    assert a not in schedule.states


def test_the_longest_remaining_path_is_first() -> None:
    names = [NodeId("attack", key) for key in "abcd"]
    a, b, c, d = names
    graph = graph_of({a: [], b: [], c: [], d: [c]})
    schedule = Schedule(graph, seconds={a: 3.0, b: 5.0, c: 1.0, d: 4.5})
    assert [schedule.next() for _ in range(3)] == [c, b, a]


@pytest.mark.parametrize("narrow_ones", [30, 60])
def test_a_wide_stage_is_not_passed_over_for_ever(narrow_ones: int) -> None:
    wide = NodeId("pretrain", "wide")
    narrow = [NodeId("attack", str(number)) for number in range(narrow_ones)]
    graph = graph_of(dict.fromkeys([wide, *narrow], ()))
    asked = dict.fromkeys(narrow, Request()) | {wide: Request(cpus=2)}
    # one ends while the other core is busy, always: let through, they would never leave both cores free
    costs = {name: 1.0 + 0.37 * (index % 7) for index, name in enumerate(graph.nodes)}
    schedule = Schedule(graph, seconds=costs | {wide: 1e6}, group=asked.__getitem__)
    first = schedule.next(lambda name: name != wide)  # one has begun already
    assert first is not None
    running, starts = [first], []
    while not starts or starts[-1] != wide:
        while name := schedule.next(lambda name: sum(asked[n].cpus for n in [*running, name]) <= 2):
            starts.append(name)
            running.append(name)
        schedule.succeed(running.pop(0))
    assert len(starts) - 1 < narrow_ones / 2


def test_what_no_machine_can_take_does_not_hold_up_the_others() -> None:
    wide = NodeId("pretrain", "wide")
    narrow = [NodeId("attack", str(number)) for number in range(3 * PATIENCE)]
    graph = graph_of(dict.fromkeys([wide, *narrow], ()))
    asked = dict.fromkeys(narrow, Request()) | {wide: Request(cpus=9)}
    costs = dict.fromkeys(graph.nodes, 1.0)
    schedule = Schedule(graph, seconds=costs | {wide: 100.0}, group=asked.__getitem__)
    found = simulate(schedule, costs, 2, request=asked.__getitem__)
    assert {name for name, _, _ in found.spans} == set(narrow)
    assert schedule.states[wide] is State.READY
