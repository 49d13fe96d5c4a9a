"""Which stage of a graph is started next. Plain Python: it knows neither Ray nor the store.

A stage is ready when all that it reads is there. Of the ready ones, that with the longest remaining path is
started first: list scheduling by upward rank (Topcuoglu et al. 2002, section 4.1), which is what keeps the
last of a sweep from being one long chain. Stages that ask for the same resources queue together, so that a
choice looks at one stage for each kind of request, however many are ready.
"""

import heapq
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from pipeline.graph import Graph, NodeId

PATIENCE = 8
"""How often a stage that does not fit may be passed over by shorter ones before they have to wait for it."""


class State(StrEnum):
    """Where a stage stands."""

    WAITING = "waiting"
    READY = "ready"
    RUNNING = "running"
    DONE = "done"
    CACHED = "cached"
    FAILED = "failed"
    SKIPPED = "skipped"


FINISHED = {State.DONE, State.CACHED}
ENDED = FINISHED | {State.FAILED, State.SKIPPED}


@dataclass(frozen=True)
class Failure:
    """Why a stage has no result."""

    reason: str
    attempts: int


class Schedule:
    """The states of all stages of a graph, and the choice of the next one."""

    def __init__(
        self,
        graph: Graph,
        *,
        seconds: Mapping[NodeId, float],
        cached: Iterable[NodeId] = (),
        group: Callable[[NodeId], Hashable] = lambda name: name.stage,
        retries: int = 1,
    ) -> None:
        """All stages wait, but those that are `cached`.

        Args:
            graph: the stages.
            seconds: how long each is expected to take; only their proportions matter. Zero is allowed.
            cached: what is in the store already.
            group: which stages ask for the same resources.
            retries: how often a stage is started again after a failure that may not happen again.
        """
        self._graph = graph
        self._downstream = graph.downstream()
        self._group = group
        self._retries = retries
        self._seconds = {name: max(0.0, seconds.get(name, 0.0)) for name in graph.nodes}
        self.states = dict.fromkeys(graph.nodes, State.WAITING)
        self.failures: dict[NodeId, Failure] = {}
        self._attempts = dict.fromkeys(graph.nodes, 0)
        self._queues: dict[Hashable, list[tuple[float, int, NodeId]]] = {}
        self._passed: dict[NodeId, int] = {}
        self._place = {name: index for index, name in enumerate(graph.nodes)}
        for name in cached:
            self.states[name] = State.CACHED
        self._rank = self._ranks()
        self._missing = {
            # what a stage in the store has read may be gone, and is no part of the graph then
            name: sum(self.states.get(before, State.CACHED) is not State.CACHED for before in node.upstream)
            for name, node in graph.nodes.items()
        }
        self._counts = dict.fromkeys(State, 0)
        for state in self.states.values():
            self._counts[state] += 1
        for name, missing in self._missing.items():
            if missing == 0 and self.states[name] is State.WAITING:
                self._enqueue(name)

    def _ranks(self) -> dict[NodeId, float]:
        """Seconds from the start of each stage to the end of the longest path below it."""
        rank: dict[NodeId, float] = {}
        for name in reversed(self._graph.nodes):  # those that read a stage come after it
            own = 0.0 if self.states[name] is State.CACHED else self._seconds[name]
            rank[name] = own + max((rank[after] for after in self._downstream[name]), default=0.0)
        return rank

    # --- what is next ------------------------------------------------------------------------------------

    def next(self, fits: Callable[[NodeId], bool] = lambda name: True) -> NodeId | None:
        """Start the ready stage with the longest remaining path among those that fit; None if none does.

        A stage that does not fit (more than is free now) is passed over a few times only; then nothing else
        is started until it fits. Otherwise wide stages would wait for all narrow ones.
        """
        heads = sorted(queue[0] for queue in self._queues.values() if queue)
        passed: list[NodeId] = []
        for _, _, name in heads:
            if fits(name):
                for other in passed:
                    self._passed[other] = self._passed.get(other, 0) + 1
                heapq.heappop(self._queues[self._group(name)])
                self._attempts[name] += 1
                self._set(name, State.RUNNING)
                return name
            # where nothing runs, nothing will make room: a machine has gone, and the others may go on
            if self._passed.get(name, 0) >= PATIENCE and self._counts[State.RUNNING]:
                return None
            passed.append(name)
        return None

    def has_ready(self) -> bool:
        """Whether a stage could be started if there were room for it."""
        return self._counts[State.READY] > 0

    # --- what happened -----------------------------------------------------------------------------------

    def succeed(self, name: NodeId) -> None:
        """A running stage is in the store."""
        self._set(name, State.DONE)
        for after in self._downstream[name]:
            self._missing[after] -= 1
            if self._missing[after] == 0 and self.states[after] is State.WAITING:
                self._enqueue(after)

    def fail(self, name: NodeId, reason: str, *, may_pass: bool) -> list[NodeId]:
        """A stage has no result. It is tried again if it `may_pass` then and has retries left.

        Returns the stages that cannot be computed any more: those that read it, directly or not.
        """
        if may_pass and self._attempts[name] <= self._retries:
            self._enqueue(name)
            return []
        self._leave_queue(name)
        self._set(name, State.FAILED)
        self.failures[name] = Failure(reason, self._attempts[name])
        skipped = []
        pending = list(self._downstream[name])
        while pending:
            after = pending.pop()
            if self.states[after] not in ENDED:
                self._leave_queue(after)
                self._set(after, State.SKIPPED)
                skipped.append(after)
                pending += self._downstream[after]
        return sorted(skipped, key=self._place.__getitem__)

    def give_up(self, name: NodeId) -> None:
        """A running stage was stopped on purpose: it waits again, and the attempt does not count."""
        self._attempts[name] -= 1
        self._enqueue(name)

    # --- where it stands ---------------------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to start or to wait for."""
        return not any(self._counts[state] for state in (State.WAITING, State.READY, State.RUNNING))

    def count(self, state: State) -> int:
        """Number of stages in a state."""
        return self._counts[state]

    def attempts(self, name: NodeId) -> int:
        """How often a stage was started."""
        return self._attempts[name]

    def _set(self, name: NodeId, state: State) -> None:
        self._counts[self.states[name]] -= 1
        self._counts[state] += 1
        self.states[name] = state

    def _enqueue(self, name: NodeId) -> None:
        self._set(name, State.READY)
        queue = self._queues.setdefault(self._group(name), [])
        heapq.heappush(queue, (-self._rank[name], self._place[name], name))

    def _leave_queue(self, name: NodeId) -> None:
        if self.states[name] is State.READY:
            queue = self._queues[self._group(name)]
            queue.remove((-self._rank[name], self._place[name], name))
            heapq.heapify(queue)
