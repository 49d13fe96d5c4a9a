"""All stages that a set of experiments needs, each once: experiments that share a prefix share its stages."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pipeline.experiment import STAGES
from pipeline.runner import Plan


class NodeId(NamedTuple):
    """Names a stage of the graph, and its entry in the store."""

    stage: str
    key: str

    def __str__(self) -> str:
        return f"{self.stage} {self.key[:12]}"


@dataclass(frozen=True)
class Node:
    """One stage to be computed once."""

    id: NodeId
    plan: Plan
    """An experiment that it belongs to; all of them agree on everything that the stage reads."""
    upstream: tuple[NodeId, ...]
    """The stages whose outputs it reads."""

    @property
    def name(self) -> str:
        """The stage and what it is of: `finetune ratio-0.9-clean`."""
        return f"{self.id.stage} {self.plan.subject(self.id.stage)}"


@dataclass(frozen=True)
class Graph:
    """Stages in an order in which every stage comes after those that it reads."""

    nodes: dict[NodeId, Node]
    plans: tuple[Plan, ...]
    """The experiments, each once."""
    users: dict[NodeId, list[int]] = field(repr=False)
    """Indices into `plans` of the experiments that a stage belongs to."""
    last: frozenset[NodeId]
    """The stages that are wanted for themselves, not for those that read them."""

    def downstream(self) -> dict[NodeId, list[NodeId]]:
        """The stages that read each stage."""
        found: dict[NodeId, list[NodeId]] = {name: [] for name in self.nodes}
        for node in self.nodes.values():
            for before in node.upstream:
                if before in found:
                    found[before].append(node.id)
        return found

    def below(self, names: Collection[NodeId]) -> set[NodeId]:
        """These stages, and all that rest on them."""
        found = set(names)
        for node in self.nodes.values():  # after those that it reads
            if found.intersection(node.upstream):
                found.add(node.id)
        return found

    def of(self, names: Collection[NodeId]) -> "Graph":
        """The part of the graph with these stages."""
        kept = {name: node for name, node in self.nodes.items() if name in names}
        return Graph(kept, self.plans, {name: self.users[name] for name in kept}, self.last & kept.keys())

    def count(self) -> dict[str, int]:
        """Number of stages by kind, in the order in which data flows."""
        found = dict.fromkeys(STAGES, 0)
        for name in self.nodes:
            found[name.stage] += 1
        return {stage: number for stage, number in found.items() if number}


def build_graph(wanted: Iterable[tuple[Plan, Sequence[str]]]) -> Graph:
    """The graph of plans, each with the last stages that are wanted of it.

    Experiments that are equal in all keys are one. Nodes are ordered by kind of stage, then as first seen.
    """
    distinct: dict[tuple[str, ...], tuple[Plan, set[str]]] = {}
    for plan, until in wanted:
        distinct.setdefault(tuple(plan.keys.values()), (plan, set()))[1].update(until)
    found: dict[NodeId, Node] = {}
    users: dict[NodeId, list[int]] = {}
    last: set[NodeId] = set()
    for index, (plan, ends) in enumerate(distinct.values()):
        last.update(NodeId(stage, plan.keys[stage]) for stage in ends)
        needed = {stage for end in ends for stage in plan.stages_to(end)}
        for stage in needed:
            name = NodeId(stage, plan.keys[stage])
            if name not in found:
                before = plan.upstream_keys(stage).items()
                found[name] = Node(name, plan, tuple(NodeId(other, key) for other, key in before))
            users.setdefault(name, []).append(index)
    # kinds of stages are in the order of data: a node is there before those that read it
    order = {stage: number for number, stage in enumerate(STAGES)}
    nodes = {name: found[name] for name in sorted(found, key=lambda name: order[name.stage])}
    return Graph(nodes, tuple(plan for plan, _ in distinct.values()), users, frozenset(last))
