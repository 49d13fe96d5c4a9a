"""How long a sweep will still take, learnt while it runs."""

from collections.abc import Mapping

from pipeline.graph import Graph, NodeId
from pipeline.schedule import ENDED, Schedule


class RemainingTime:
    """Estimates before the start, corrected by what the stages of each kind really took."""

    def __init__(self, graph: Graph, schedule: Schedule, seconds: Mapping[NodeId, float | None]) -> None:
        """`seconds`: the estimates of single stages on the cores that they get; None where there is none."""
        self._schedule = schedule
        self._seconds = seconds
        self._group = {
            name: (name.stage, node.plan.experiment.pretrain.model) for name, node in graph.nodes.items()
        }
        self._expected: dict[tuple[str, str], float] = {}
        self._taken: dict[tuple[str, str], float] = {}
        self._number: dict[tuple[str, str], int] = {}

    def took(self, name: NodeId, seconds: float) -> None:
        """A stage was computed in so many seconds."""
        group = self._group[name]
        self._expected[group] = self._expected.get(group, 0.0) + (self._seconds[name] or 0.0)
        self._taken[group] = self._taken.get(group, 0.0) + seconds
        self._number[group] = self._number.get(group, 0) + 1

    def seconds(self, slots: float) -> tuple[float, bool]:
        """Seconds to the end with so many stages at a time, and whether every stage has an estimate."""
        complete, added, longest = True, 0.0, 0.0
        for name, state in self._schedule.states.items():
            if state in ENDED:
                continue
            expected = self._of(name)
            complete = complete and expected is not None
            added += expected or 0.0
            longest = max(longest, expected or 0.0)
        return max(added / max(slots, 1.0), longest), complete

    def _of(self, name: NodeId) -> float | None:
        group, prior = self._group[name], self._seconds[name]
        number = self._number.get(group, 0)
        if not number:
            return prior
        if prior is None or not self._expected[group]:
            return self._taken[group] / number
        return prior * self._taken[group] / self._expected[group]
