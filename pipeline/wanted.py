"""What a sweep is asked for, as the graph of its stages."""

from hashlib import sha256
from pathlib import Path

from pipeline.graph import Graph, build_graph
from pipeline.grids import Grid, grid_names, grid_path, load_grid
from pipeline.runner import plan
from pipeline.selection import select
from pipeline.store import Store
from pipeline.sweep_records import Asked
from pipeline.tracking import Tracker


class Wanted:
    """A grid with what was chosen of it, as a graph."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        seeds = None if asked.seeds is None else range(asked.seeds)
        self.grid: Grid = load_grid(asked.grid, override=asked.override, seeds=seeds, data=asked.data)
        cells = select(self.grid.cells, asked.where)
        plans = plan(cell.experiment for cell in cells)
        self.graph: Graph = build_graph(
            (planned, cell.until) for planned, cell in zip(plans, cells, strict=True)
        )

    def tracker(self, store: Store, uri: str | None = None, *, sweep_id: str = "") -> Tracker:
        """Records the stages of this grid, below a run of its own that later sweeps of it find again."""
        about = {
            "name": f"grid {self.grid.name}",
            "source": "sweep",
            "grid": self.grid.name,
            "where": " ".join(self.asked.where),
        }
        about |= {"sweep_id": sweep_id} if sweep_id else {}
        keys = {name.key for name in self.graph.nodes}
        plans = self.graph.plans
        return Tracker(self.grid.tracking, plans, store=store, uri=uri, about=about, wanted=keys)

    @property
    def digest(self) -> str:
        """Identifies the stages."""
        return sha256("\n".join(sorted(map("/".join, self.graph.nodes))).encode()).hexdigest()


def from_anywhere(asked: Asked) -> Asked:
    """The same question whatever folder it is asked in: files and data by their whole path."""
    grid = asked.grid if asked.grid in grid_names() else str(grid_path(asked.grid).absolute())
    data = {name: str(Path(path).absolute()) for name, path in asked.data.items()}
    return asked.model_copy(update={"grid": grid, "data": data})
