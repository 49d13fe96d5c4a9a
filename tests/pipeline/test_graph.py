"""The graph of a sweep: every stage once, after what it reads, whatever the order of the experiments."""

import copy
from typing import Any

import networkx as nx
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_experiment import TINY

from pipeline.experiment import STAGES, ExperimentSet
from pipeline.graph import Graph, build_graph
from pipeline.keys import stages_before, upstream
from pipeline.runner import Plan, plan

Wanted = list[tuple[Plan, tuple[str, ...]]]

contents = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 1),
        "defense": st.lists(
            st.sampled_from(["adversarial", "trades", "sparse", "rse_add"]), min_size=1, unique=True
        ),
        "randomize": st.lists(st.sampled_from(["fixed", "bank"]), min_size=1, unique=True),
        "ratio": st.lists(st.sampled_from([0.5, 0.9]), unique=True),
        "pattern": st.lists(st.sampled_from(["4:8"]), unique=True),
        "transfer": st.booleans(),
        "simulate": st.booleans(),
        "until": st.sampled_from(
            [("attack", "simulate"), ("simulate",), ("finetune", "attack"), ("pretrain",)]
        ),
    }
)
grids = st.lists(contents, min_size=1, max_size=3)
COUNT = settings(max_examples=30, deadline=None)


def wanted(drawn: list[dict[str, Any]]) -> Wanted:
    found: Wanted = []
    for part in drawn:
        content = copy.deepcopy(TINY)
        content["seed"] = part["seed"]
        content["pretrain"]["defense"] = part["defense"]
        content["distill"]["randomize"] = part["randomize"]
        content["finetune"] |= {"ratio": part["ratio"], "pattern": part["pattern"]}
        content["simulate"] = {"images": 1} if part["simulate"] else None
        if part["transfer"]:
            content["attack"]["attacks"]["transfer"] = {"kind": "transfer"}
        for planned in plan(ExperimentSet.model_validate(content).experiments()):
            until = tuple(stage for stage in part["until"] if stage in planned.experiment.stages)
            if until:
                found.append((planned, until))
    return found


def by_brute_force(cells: Wanted) -> set[tuple[str, str]]:
    """All distinct (stage, key) that a wanted stage is or rests on."""
    return {
        (stage, planned.keys[stage])
        for planned, until in cells
        for last in until
        for stage in stages_before(last, planned.experiment)
    }


def content(graph: Graph) -> dict[Any, Any]:
    return {name: set(node.upstream) for name, node in graph.nodes.items()}


@COUNT
@given(grids)
def test_every_stage_is_there_once_and_after_what_it_reads(drawn: list[dict[str, Any]]) -> None:
    cells = wanted(drawn)
    graph = build_graph(cells)
    assert set(graph.nodes) == by_brute_force(cells)
    place = {name: index for index, name in enumerate(graph.nodes)}
    for name, node in graph.nodes.items():
        assert {before.stage for before in node.upstream} == set(upstream(name.stage, node.plan.experiment))
        assert all(place[before] < place[name] for before in node.upstream)
    edges = nx.DiGraph((before, name) for name, node in graph.nodes.items() for before in node.upstream)
    assert nx.is_directed_acyclic_graph(edges)
    # every stage is wanted, or read by one that is
    assert all(name in graph.last or graph.downstream()[name] for name in graph.nodes)
    assert graph.last == {(stage, planned.keys[stage]) for planned, until in cells for stage in until}
    assert graph.count() == {s: n for s in STAGES if (n := sum(name.stage == s for name in graph.nodes))}


@COUNT
@given(grids)
def test_users_of_a_stage_are_all_the_experiments_that_rest_on_it(drawn: list[dict[str, Any]]) -> None:
    cells = wanted(drawn)
    graph = build_graph(cells + cells[:1])  # an experiment that comes again is no other one
    assert len({tuple(planned.keys.items()) for planned in graph.plans}) == len(graph.plans)
    ends = {tuple(planned.keys.items()): set[str]() for planned in graph.plans}
    for planned, until in cells:
        ends[tuple(planned.keys.items())] |= set(until)
    for name, users in graph.users.items():
        expected = [
            index
            for index, planned in enumerate(graph.plans)
            if tuple(name) in by_brute_force([(planned, tuple(ends[tuple(planned.keys.items())]))])
        ]
        assert users == expected


@COUNT
@given(grids, st.randoms(use_true_random=False))
def test_the_order_of_experiments_changes_nothing(drawn: list[dict[str, Any]], draw: Any) -> None:
    cells = wanted(drawn)
    shuffled = cells.copy()
    draw.shuffle(shuffled)
    one, other = build_graph(cells), build_graph(shuffled)
    assert content(one) == content(other)
    assert one.last == other.last


@COUNT
@given(grids, grids)
def test_the_graph_of_two_grids_is_the_union_of_their_graphs(
    first: list[dict[str, Any]], second: list[dict[str, Any]]
) -> None:
    one, other = build_graph(wanted(first)), build_graph(wanted(second))
    both = build_graph(wanted(first) + wanted(second))
    assert content(both) == content(one) | content(other)
    assert both.last == one.last | other.last
    part = both.of(one.nodes)
    assert content(part) == content(one)
    assert part.users.keys() == one.users.keys()
