"""Where the accelerator's cycles go, layer by layer: the timeline of a network in one bar for each layer."""

from collections.abc import Mapping

import polars as pl
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from analysis.figures.drawing import INK, MUTED, SETTINGS
from analysis.figures.series import NothingToDrawError, foot, new_figure, panel_title, shared_legend
from analysis.files import RunFiles
from analysis.names import rule_name
from analysis.networks import Network, networks

# (colour, hatching) of each cause, told apart in grey as well: work is plain, waiting is hatched.
CAUSES: Mapping[str, tuple[str, str]] = {
    "precise": ("#0072B2", ""),
    "approximate": ("#56B4E9", ""),
    "projection": ("#009E73", ""),
    "selection": ("#CC79A7", "//"),
    "imbalance": ("#D55E00", "\\\\"),
    "alignment": ("#E69F00", ".."),
    "activation_port": ("#8C6D00", "xx"),
    "depth": ("#F0E442", "--"),
    "drain": ("#BBBBBB", "++"),
    "dram": ("#3F4650", "||"),
}
MOST = 3
WIDTH = 7.2  # inches


def draw(runs: pl.DataFrame, files: RunFiles) -> Figure:
    """The figure of the `simulate` runs among `runs` with the layer tables of `files`.

    A panel for each of the networks with the least, the middle and the most noise, on the core that it is
    for: every layer of one image one after the other, as wide as its cycles, split by what they went to.
    Raises `NothingToDrawError` where no simulation has its table by layer.
    """
    found = [(network, table) for network in _chosen(runs) if (table := _layers(network, files)) is not None]
    if not found:
        raise NothingToDrawError("no simulation has its cycles by layer")
    with rc_context(SETTINGS):
        figure = new_figure(WIDTH, 1.15 * len(found) + 1.1)
        axes = figure.subplots(len(found), 1, squeeze=False, sharex=True)[:, 0]
        for ax, (network, table) in zip(axes, found, strict=True):
            _panel(ax, table)
            total = table["cycles"].sum()
            rule = rule_name(network.identity).lower()
            core = table["core"][0]
            cycles = f"{total:,.0f}".replace(",", "\u202f")
            panel_title(ax, f"{network.subject}, {rule}, {core} core: {cycles} cycles")
        axes[-1].set_xlabel("thousands of cycles, layers one after the other")
        axes[-1].xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 1000:g}"))
        shared_legend(figure, columns=5)
        foot(figure, "masks of real images, mean of one image; plain: work, hatched: waiting; |: layers")
    return figure


def _chosen(runs: pl.DataFrame) -> list[Network]:
    """Of the first architecture: the least, the middle and the most noise, patterns where there are some."""
    every = [one for one in networks(runs, stage="simulate") if one.noisy_share]
    if not every:
        return []
    own = sorted(
        (one for one in every if one.subject == every[0].subject and one.is_plain),
        key=lambda one: (one.noisy_share or 0, bool(one.identity["pattern"])),
    )
    places = dict.fromkeys((0, len(own) // 2, len(own) - 1)) if own else {}
    return [own[place] for place in places][:MOST]


def _layers(network: Network, files: RunFiles) -> pl.DataFrame | None:
    table = files.table(network.runs[-1]["run_id"], "layers.csv")
    if table is None or table.is_empty():
        return None
    cores = table["core"].unique(maintain_order=True).to_list()
    core = "structured" if network.identity["pattern"] and "structured" in cores else cores[0]
    return table.filter(pl.col("core") == core)


def _panel(ax: Axes, table: pl.DataFrame) -> None:
    spans: dict[str, list[tuple[float, float]]] = {cause: [] for cause in CAUSES}
    start = 0.0
    for row in table.iter_rows(named=True):
        left = start
        for cause in CAUSES:
            width = row["cycles"] * row.get(cause, 0.0)
            if width > 0:
                spans[cause].append((left, width))
            left += width
        start += row["cycles"]
        ax.plot([start, start], [-0.5, 0.5], color=INK, linewidth=0.5)
    for cause, (colour, hatch) in CAUSES.items():
        if spans[cause]:
            ax.broken_barh(
                spans[cause], (-0.4, 0.8), facecolor=colour, hatch=hatch, edgecolor="white", linewidth=0,
                label=cause.replace("_", " "),
            )  # fmt: skip
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    ax.grid(axis="x", color=MUTED, alpha=0.18, linewidth=0.6)
    ax.set_axisbelow(True)
