"""What is in the store and what is left to compute, beside a recursion that follows the definition."""

import copy
import random
from pathlib import Path
from typing import Any

import pytest
from stored_stages import plans_of, store_stage
from tiny_experiment import TINY

from pipeline.graph import Graph, NodeId, build_graph
from pipeline.planning import glance, survey
from pipeline.runner import Plan
from pipeline.schedule import Schedule
from pipeline.store import MANIFEST, Entry, Store


def setting() -> tuple[list[Plan], Graph]:
    content: dict[str, Any] = copy.deepcopy(TINY)
    content["finetune"]["ratio"] = [0.5, 0.9]
    content["simulate"] = {"images": 1}
    plans = plans_of(content)
    return plans, build_graph(
        (p, [s for s in ("attack", "simulate") if s in p.experiment.stages]) for p in plans
    )


@pytest.fixture
def filled(tmp_path: Path) -> tuple[Store, Graph]:
    plans, graph = setting()
    store = Store(tmp_path)
    for planned in plans:
        for stage in planned.experiment.stages:
            store_stage(store, stage, planned)
    return store, graph


def needed(graph: Graph, there: set[NodeId]) -> set[NodeId]:
    """What is wanted and not there, and what that reads and is not there."""
    found: set[NodeId] = set()

    def visit(name: NodeId) -> None:
        if name not in there:
            found.add(name)
            for before in graph.nodes[name].upstream:
                visit(before)

    for name in graph.last:
        visit(name)
    return found


def again(store: Store, name: NodeId, **changes: Any) -> Entry:
    """The entry as another computation would have left it: other files, or other inputs."""
    old = store.find(*name)
    assert old is not None
    store.discard(*name)
    out = store.begin(*name)
    (out / "other.json").write_text("{}")
    return store.commit(old.manifest.model_copy(update=changes))


def test_nothing_is_left_where_everything_is_there(filled: tuple[Store, Graph]) -> None:
    store, graph = filled
    for seen in (survey(graph, store), glance(graph, store)):
        assert seen.cached == graph.nodes.keys()
        assert not seen.missing


def test_everything_is_left_where_nothing_is(tmp_path: Path) -> None:
    _, graph = setting()
    told: list[tuple[int, int]] = []
    seen = survey(graph, Store(tmp_path), on_progress=lambda what, done, total: told.append((done, total)))
    assert (seen.cached, seen.missing) == (set(), graph.nodes.keys())
    assert told[-1] == (len(graph.nodes), len(graph.nodes))


def test_what_is_missing_is_what_the_definition_says(filled: tuple[Store, Graph]) -> None:
    store, graph = filled
    draw = random.Random(0)
    for _ in range(25):
        there = {name for name in graph.nodes if draw.random() < 0.7}
        hidden = [store.entry_path(*name) for name in graph.nodes.keys() - there]
        for path in hidden:
            path.rename(path.with_suffix(".hidden"))
        for seen in (survey(graph, store), glance(graph, store)):
            assert seen.cached == there
            assert seen.missing == needed(graph, there)
            assert seen.graph(graph).nodes.keys() == there | seen.missing
            Schedule(seen.graph(graph), seconds={}, cached=seen.cached)  # which can do with that part
        for path in hidden:
            path.with_suffix(".hidden").rename(path)


def test_a_result_needs_nothing_of_what_it_came_from(filled: tuple[Store, Graph]) -> None:
    store, graph = filled
    for name in graph.nodes.keys() - graph.last:
        store.discard(*name)
    seen = survey(graph, store)
    assert not seen.missing
    assert seen.cached == graph.last


def test_a_stage_that_is_wanted_itself_is_computed_although_what_reads_it_is_there(tmp_path: Path) -> None:
    plans, _ = setting()
    store = Store(tmp_path)
    for planned in plans:
        for stage in planned.experiment.stages:
            store_stage(store, stage, planned)
    graph = build_graph((planned, ["pretrain", "attack"]) for planned in plans)
    trained = NodeId("pretrain", plans[0].keys["pretrain"])
    store.discard(*trained)
    assert survey(graph, store).missing == {trained}


def test_what_came_from_other_inputs_is_computed_again_with_all_that_rests_on_it(
    filled: tuple[Store, Graph],
) -> None:
    store, graph = filled
    [distilled] = [name for name in graph.nodes if name.stage == "distill"]
    again(store, distilled)
    seen = survey(graph, store)
    above = {name for name in graph.nodes if name.stage in ("prepare", "pretrain")}
    [dense] = [
        n for n, node in graph.nodes.items() if n.stage == "attack" and node.plan.experiment.finetune is None
    ]
    assert seen.cached == above | {distilled, dense}
    assert seen.missing == graph.nodes.keys() - seen.cached
    assert not glance(graph, store).missing  # which only looks whether it is there


def test_equal_results_of_another_computation_are_the_same_inputs(filled: tuple[Store, Graph]) -> None:
    store, graph = filled
    [distilled] = [name for name in graph.nodes if name.stage == "distill"]
    old = store.find(*distilled)
    assert old is not None
    store.discard(*distilled)
    store.begin(*distilled)
    store.commit(old.manifest.model_copy(update={"seconds": 99.0}))
    assert not survey(graph, store).missing


def test_a_damaged_entry_is_missing_where_it_is_needed(filled: tuple[Store, Graph]) -> None:
    store, graph = filled
    damaged = next(name for name in graph.last if name.stage == "simulate")
    (store.entry_path(*damaged) / MANIFEST).write_text("{}")
    assert survey(graph, Store(store.root)).missing == {damaged}
    [trained] = [name for name in graph.nodes if name.stage == "pretrain"]
    (store.entry_path(*trained) / "model.safetensors").write_bytes(b"rotten!")
    seen = survey(graph, Store(store.root))
    assert seen.missing == {damaged}  # nothing reads the damaged network now
    assert trained not in seen.cached
