"""Graphs with made-up costs, and workers whose time is virtual: `pipeline.schedule` alone at work."""

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np

from pipeline.config import Attack, AttackConfig, Distill, Prepare, Pretrain
from pipeline.experiment import Experiment
from pipeline.graph import Graph, Node, NodeId
from pipeline.resources import Capacity, Request
from pipeline.runner import Plan
from pipeline.schedule import Schedule

ONE_CORE = Request()
MINUTES = {"prepare": 1, "pretrain": 240, "distill": 10, "finetune": 20, "attack": 30, "simulate": 2}
"""Medians of the made-up costs: proportions as on the paper's networks."""
SPREAD = 0.5
"""Standard deviation of their logarithms."""
VARIANTS = 16
"""Networks with noise for each trained one."""


def graph_of(upstream: Mapping[NodeId, Sequence[NodeId]]) -> Graph:
    """A graph with these stages, given in an order in which every one comes after those that it reads.

    All belong to one experiment that is none: nothing of it can be computed.
    """
    plan = Plan(_EXPERIMENT, {name.stage: name.key for name in upstream}, "")
    nodes = {name: Node(name, plan, tuple(before)) for name, before in upstream.items()}
    read = {before for node in nodes.values() for before in node.upstream}
    return Graph(nodes, (plan,), {name: [0] for name in nodes}, frozenset(nodes.keys() - read))


_EXPERIMENT = Experiment(
    prepare=Prepare(validation_images=1),
    pretrain=Pretrain(epochs=1),
    distill=Distill(),
    finetune=None,
    attack=Attack(attacks={"fgsm": AttackConfig(kind="fgsm")}),
)


def like_a_sweep(stages: int) -> Graph:
    """About so many stages in the shape of a real sweep: few long trainings, many short ends of each."""
    upstream: dict[NodeId, list[NodeId]] = {}
    each = 3 + 3 * VARIANTS
    data = NodeId("prepare", "0")
    upstream[data] = []
    for number in range(max(1, round((stages - 1) / each))):
        trained, distilled = NodeId("pretrain", f"{number}"), NodeId("distill", f"{number}")
        upstream[trained] = [data]
        upstream[distilled] = [data, trained]
        upstream[NodeId("attack", f"{number}")] = [data, trained]
        for variant in range(VARIANTS):
            tuned = NodeId("finetune", f"{number}-{variant}")
            upstream[tuned] = [data, distilled]
            upstream[NodeId("attack", tuned.key)] = [data, tuned]
            upstream[NodeId("simulate", tuned.key)] = [data, tuned]
    return graph_of(upstream)


def at_random(stages: int, draw: np.random.Generator, *, most_read: int = 3) -> Graph:
    """Stages of random kinds, each of which reads some of the ones before it."""
    names = [NodeId(str(kind), str(number)) for number, kind in enumerate(draw.choice(list(MINUTES), stages))]
    return graph_of(
        {
            # some of the numbers are drawn twice or are none: stages read different numbers of others
            name: [names[n] for n in np.unique(draw.integers(-1, max(index, 1), most_read)) if 0 <= n < index]
            for index, name in enumerate(names)
        }
    )


def log_normal_costs(graph: Graph, draw: np.random.Generator) -> dict[NodeId, float]:
    """Minutes of every stage, log-normal about the median of its kind."""
    factors = draw.lognormal(0.0, SPREAD, len(graph.nodes)).tolist()
    return {name: MINUTES[name.stage] * factor for name, factor in zip(graph.nodes, factors, strict=True)}


def longest_path(graph: Graph, costs: Mapping[NodeId, float]) -> float:
    """Time that no number of workers can do without."""
    end: dict[NodeId, float] = {}
    for name, node in graph.nodes.items():
        end[name] = costs[name] + max((end[before] for before in node.upstream), default=0.0)
    return max(end.values(), default=0.0)


@dataclass
class Simulated:
    """What happened on virtual workers."""

    makespan: float = 0.0
    spans: list[tuple[NodeId, float, float]] = field(default_factory=list)
    """Stage, start and end of every attempt, in the order of the ends."""
    scheduler_s: float = 0.0
    """Real seconds in which the schedule was asked and told."""


def simulate(
    schedule: Schedule,
    costs: Mapping[NodeId, float],
    cores: float,
    *,
    request: Callable[[NodeId], Request] = lambda name: ONE_CORE,
    end: Callable[[NodeId], object] | None = None,
) -> Simulated:
    """Run all that `schedule` starts on a machine of `cores`, in virtual time.

    Args:
        schedule: says what is next; what ends is told it.
        costs: how long each stage takes.
        cores: CPU cores of the machine.
        request: what a stage takes of it while it runs.
        end: tells the schedule of an end; default: that the stage is done.
    """
    capacity, found = Capacity([{"CPU": cores}]), Simulated()
    running: list[tuple[float, int, NodeId, float]] = []
    number = 0
    while True:
        began = perf_counter()
        while (name := schedule.next(lambda name: capacity.fits(request(name)))) is not None:
            capacity.take(request(name))
            number += 1
            heapq.heappush(running, (found.makespan + costs[name], number, name, found.makespan))
        found.scheduler_s += perf_counter() - began
        if not running:
            return found
        found.makespan, _, name, start = heapq.heappop(running)
        found.spans.append((name, start, found.makespan))
        capacity.give(request(name))
        began = perf_counter()
        (end or schedule.succeed)(name)
        found.scheduler_s += perf_counter() - began
