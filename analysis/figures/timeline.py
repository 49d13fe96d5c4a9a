"""The accelerator's timeline: what its vector units do and wait for while a network runs, layer by layer."""

from collections.abc import Sequence

import polars as pl
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from analysis.figures.drawing import FURTHER_STYLES, INK, MUTED, SERIES_STYLES, SETTINGS
from analysis.figures.series import NothingToDrawError, foot, new_figure, panel_title
from analysis.files import RunFiles
from analysis.names import percent, rule_name
from analysis.timeline import PARTS, Part, Span, Timeline, spelled, timelines

_COLOURS = [colour for colour, *_ in (*SERIES_STYLES, *FURTHER_STYLES)]
# Work is plain, waiting is hatched. Each has a row of its own, so that no two need be told apart by colour.
LOOKS = {
    part.name: (_COLOURS[0] if part is PARTS[0] else _COLOURS[2] if part.works else _COLOURS[1])
    for part in PARTS
}
WAITING = "////"
WIDTH, LANE_HEIGHT, BAR_HEIGHT = 7.4, 0.2, 0.31  # inches
NAMES_HEIGHT, TITLE_HEIGHT, TICKS_HEIGHT, AXIS_HEIGHT = 0.5, 0.25, 0.2, 0.3
LEAST_FOR_NAME = 0.021
"""Of the axis: a narrower layer's name would cover its neighbour's."""
LEAST_SHOWN = 0.0005
"""Of the whole time: a lane that is 0.0% everywhere is left out."""
FULL = 0.86
"""Of a lane's height: all units."""


def draw(runs: pl.DataFrame, files: RunFiles) -> Figure:
    """The figure of `analysis.timeline.timelines`.

    Above, what each whole network takes, beside the dense one. Below, a panel for each network and core: the
    layers one after the other from left to right, a lane for each part, filled as high as the share of
    the vector units that it has. Raises `NothingToDrawError` where no simulation has its table by layer.
    """
    found = timelines(runs, files)
    if not found.own:
        raise NothingToDrawError("no simulation has its cycles by layer")
    parts = [part for part in PARTS if any(one.whole.shares[part.name] >= LEAST_SHOWN for one in found.own)]
    totals = [found.dense] if found.dense is not None else []
    totals += [one.whole for one in found.own]
    heights = [BAR_HEIGHT * len(totals) + TITLE_HEIGHT + AXIS_HEIGHT]
    heights += [LANE_HEIGHT * len(parts) + NAMES_HEIGHT + TITLE_HEIGHT + TICKS_HEIGHT for _ in found.own]
    with rc_context({**SETTINGS, "hatch.linewidth": 0.7}):
        figure = new_figure(WIDTH, sum(heights) + AXIS_HEIGHT)
        grid = figure.add_gridspec(len(heights), 1, height_ratios=heights)
        above = figure.add_subplot(grid[0])
        panel_title(above, f"{found.own[0].network.subject}: thousands of cycles")
        _totals(above, totals)
        longest = max(one.whole.cycles for one in found.own)
        for place, one in enumerate(found.own, 1):
            _lanes(figure.add_subplot(grid[place]), one, parts, longest)
        counts = sorted({one.images for one in found.own})
        together = " or ".join(f"{count} image{'s' * (count > 1)}" for count in counts)
        seed = found.own[0].network.runs[0]["seed"]
        foot(
            figure,
            f"thousands of cycles; masks of real images, mean over batches of {together}, seed {seed}; "
            "plain: work, hatched: waiting; at the right: share of the whole time",
        )
    return figure


def _totals(ax: Axes, totals: Sequence[Span]) -> None:
    """A bar for each network: multiplying in two ways, and waiting."""
    most = max(one.cycles for one in totals)
    for place, one in enumerate(totals):
        left = 0.0
        for part in PARTS:
            width = one.shares[part.name] * one.cycles
            if part.works and width > 0:
                ax.barh(place, width, left=left, height=0.7, color=LOOKS[part.name], linewidth=0)
                left += width
        if left < one.cycles:
            ax.barh(
                place, one.cycles - left, left=left, height=0.7, facecolor=LOOKS[PARTS[-1].name],
                hatch=WAITING, edgecolor="white", linewidth=0,
            )  # fmt: skip
        ax.annotate(
            f"{spelled(one.cycles)}, {percent(one.working, 0)}% working", (one.cycles, place),
            xytext=(4, 0), textcoords="offset points", va="center", fontsize=7,
        )  # fmt: skip
    ax.set_yticks(range(len(totals)), [",\n".join(one.name.rsplit(", ", 1)) for one in totals], fontsize=7)
    ax.invert_yaxis()
    ax.set_xlim(0, 1.28 * most)
    _in_thousands(ax)


def _lanes(ax: Axes, one: Timeline, parts: Sequence[Part], longest: float) -> None:
    """Layers from left to right; a lane is full where all units do, or wait for, the same."""
    whole = one.whole
    for lane, part in enumerate(parts):
        bottom = len(parts) - 1 - lane
        shown = [layer for layer in one.layers if layer.shares[part.name] > 0]
        ax.bar(
            [layer.start for layer in shown],
            [FULL * layer.shares[part.name] for layer in shown],
            [layer.cycles for layer in shown],
            bottom,
            align="edge",
            facecolor=LOOKS[part.name],
            edgecolor="white",
            hatch="" if part.works else WAITING,
            linewidth=0,
            zorder=2,
        )
        ax.bar(0, FULL, whole.cycles, bottom, align="edge", color=MUTED, alpha=0.12, linewidth=0, zorder=0.5)
        share = whole.shares[part.name]
        ax.annotate(
            f"{percent(share)}%", (whole.cycles, bottom), xytext=(4, 2), textcoords="offset points",
            va="bottom", fontsize=7, color=INK,
        )  # fmt: skip
    edges = [0.0, *(layer.end for layer in one.layers)]
    ax.vlines(edges, 0, len(parts), color=MUTED, linewidth=0.4, zorder=1)
    for layer in one.layers:
        if layer.cycles >= LEAST_FOR_NAME * longest:
            ax.annotate(
                layer.name.removeprefix("stages."), ((layer.start + layer.end) / 2, len(parts)),
                xytext=(0, 2), textcoords="offset points", rotation=90, ha="center", va="bottom",
                fontsize=6, color=MUTED,
            )  # fmt: skip
    ax.set_yticks(
        [len(parts) - 1 - lane + FULL / 2 for lane in range(len(parts))],
        [part.name for part in parts],
        fontsize=7,
    )
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(0, len(parts))
    ax.set_xlim(0, 1.09 * longest)
    _in_thousands(ax)
    # above the names of the layers; with its training, which is said above, it could be too long
    ax.set_title(
        f"{rule_name(one.network.identity)}, {one.core} core: layer by layer", loc="left", fontsize=8.5,
        fontweight="bold", pad=72 * NAMES_HEIGHT,
    )  # fmt: skip


def _in_thousands(ax: Axes) -> None:
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 1000:g}"))
    ax.grid(axis="x", color=MUTED, alpha=0.18, linewidth=0.6)
    ax.set_axisbelow(True)
