"""What of a graph is in the store already, and what has to be computed for the rest."""

from collections.abc import Callable
from dataclasses import dataclass

from nenni_core.progress import ProgressCallback, silent
from pipeline.graph import Graph, NodeId
from pipeline.store import Entry, Store


@dataclass(frozen=True)
class Survey:
    """The stages of a graph by what is to be done about them."""

    cached: frozenset[NodeId]
    """In the store, computed from the inputs that are there now."""
    missing: frozenset[NodeId]
    """To be computed: what is wanted and not there, and all that it reads and is not there."""

    def graph(self, whole: Graph) -> Graph:
        """The stages that matter: what is neither there nor needed by anything is left out."""
        return whole.of(self.cached | self.missing)


def survey(graph: Graph, store: Store, *, on_progress: ProgressCallback = silent) -> Survey:
    """Look at every stage of `graph` in the store, and verify every byte of what is there.

    An entry that was computed from other inputs than those that are there now counts as missing, as it does
    for `pipeline.runner.ensure`, and so does all that rests on it. Damaged entries are set aside where they
    are computed again.
    """
    found: dict[NodeId, Entry] = {}
    stale: set[NodeId] = set()
    for number, node in enumerate(graph.nodes.values()):
        on_progress("looking into the store", number, len(graph.nodes))
        entry = store.find(*node.id)
        if entry is None:
            continue
        digests = {b.stage: found[b].manifest.digest for b in node.upstream if b in found}
        if stale.isdisjoint(node.upstream) and digests.items() <= entry.manifest.upstream_digests.items():
            found[node.id] = entry
        else:
            stale.add(node.id)
    on_progress("looking into the store", len(graph.nodes), len(graph.nodes))
    return _survey(graph, lambda name: name in found)


def glance(graph: Graph, store: Store) -> Survey:
    """`survey` by the existence of entries alone: quick, for a look ahead."""
    return _survey(graph, lambda name: store.contains(*name))


def _survey(graph: Graph, is_there: Callable[[NodeId], bool]) -> Survey:
    there = {name for name in graph.nodes if is_there(name)}
    downstream = graph.downstream()
    missing: set[NodeId] = set()
    for name in reversed(graph.nodes):  # those that read a stage come after it
        readers = downstream[name]
        if name not in there and (name in graph.last or any(reader in missing for reader in readers)):
            missing.add(name)
    return Survey(frozenset(there), frozenset(missing))
