"""Robustness over sparsity: where a network with fewer weights resists more, and where less."""

from collections.abc import Sequence
from math import isfinite, log10

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from analysis import names
from analysis.figures.drawing import MUTED, SERIES_STYLES, SETTINGS, points_with_bars, quiet_grid, settle
from analysis.sparsity import METHODS, Study, balls, distances, estimate, studies
from analysis.tables.robustness import RobustnessTable

NAME = "robustness_over_sparsity"
# Lines of the methods: the first one is filled and solid, the second open and dashed.
LINES = dict(zip(METHODS, ("-", "--"), strict=True))
# Points of the two methods stand side by side by this much (decades of the weights that are left).
SIDESTEP = 0.012
WIDTH, HEIGHT = 3.3, 3.6  # inches, of a panel


def draw(table: RobustnessTable) -> Figure | None:
    """The figure of `table`; None if it has no set of sparse networks (`analysis.sparsity.studies`).

    One row per set. A panel for each L-infinity radius: accuracy in percent, with its 95% Wilson interval, on
    clean images, under FGSM and under the longest PGD of that radius; then one for the median l2 distances of
    the attacks that look for the smallest change. Horizontal: sparsity, by the logarithm of the share of
    weights that is left; the dense network is sparsity 0.
    """
    found = studies(table)
    radii = balls(table)
    if not found or not (radii or any(distances(study) for study in found)):
        return None
    count = max(len(radii) + bool(distances(study)) for study in found)
    with rc_context(SETTINGS):
        figure = Figure(
            figsize=(WIDTH * count, HEIGHT * len(found)), layout=ConstrainedLayoutEngine(wspace=0.04)
        )
        FigureCanvasAgg(figure)
        for part, study in zip(figure.subfigures(len(found), 1, squeeze=False)[:, 0], found, strict=True):
            _draw_study(part, table, study, radii)
        settle(figure)
    return figure


def _draw_study(part: SubFigure, table: RobustnessTable, study: Study, radii: dict[str, list[str]]) -> None:
    measured = distances(study)
    axes = part.subplots(1, len(radii) + bool(measured), squeeze=False)[0]
    part.suptitle(study.title, fontsize=9, fontweight="bold")
    for ax, (radius, attacks) in zip(axes, radii.items(), strict=False):
        _panel(ax, study, ["clean", *attacks], title=f"L-infinity, {radius}", scale=100)
        ax.set_ylabel("Accuracy in %")
    limits = [ax.get_ylim() for ax in axes[: len(radii)]]
    for ax in axes[: len(radii)]:
        ax.set_ylim(max(-2.0, min(low for low, _ in limits)), max(high for _, high in limits))
    if measured:
        _panel(axes[-1], study, measured, title="l2", scale=1)
        axes[-1].set_ylabel("Median l2 distance")
        axes[-1].set_ylim(bottom=0)
    lines = [
        f"{'filled, solid' if line == '-' else 'open, dashed'}: {METHODS[method].lower()}"
        for method, line in LINES.items()
        if method in study.curves
    ]
    key = f"{'; '.join(lines)}; bars: 95% intervals"
    part.supxlabel(f"Sparsity, spaced by the logarithm of the weights left\n{key}", fontsize=7.5, color=MUTED)


def _panel(ax: Axes, study: Study, columns: Sequence[str], *, title: str, scale: float) -> None:
    """Curves of `columns`, times `scale`, one per method."""
    quiet_grid(ax)
    ax.set_title(title, loc="left", fontsize=8.5, pad=18)
    shown = [sparsity for points in study.curves.values() for sparsity, _ in points]
    for column, (colour, marker, _) in zip(columns, SERIES_STYLES, strict=False):
        for place, (method, points) in enumerate(study.curves.items()):
            shift = (place - (len(study.curves) - 1) / 2) * 2 * SIDESTEP
            drawn = [(sparsity, number) for sparsity, row in points if (number := estimate(row, column))]
            drawn = [(sparsity, number) for sparsity, number in drawn if isfinite(number.value)]
            places = [_place(sparsity) + shift for sparsity, _ in drawn]
            values = [scale * number.value for _, number in drawn]
            # a bar without an end stops at its point
            intervals = [
                (
                    scale * (low if isfinite(low) else number.value),
                    scale * (high if isfinite(high) else number.value),
                )
                for _, number in drawn
                for low, high in [number.interval]
            ]
            ax.plot(places, values, color=colour, linestyle=LINES[method], linewidth=1.2)
            points_with_bars(ax, places, values, intervals, colour, marker, filled=LINES[method] == "-")
        ax.plot(
            [], [], color=colour, marker=marker, linestyle="", label=names.column_name(column).split(",")[0]
        )
    ax.legend(
        loc="lower left", bbox_to_anchor=(-0.02, 0.99), ncols=3, frameon=False, fontsize=7.5,
        handletextpad=0.1, columnspacing=0.9, borderpad=0.1,
    )  # fmt: skip
    ticks = sorted(set(shown))
    ax.set_xticks(
        [_place(sparsity) for sparsity in ticks], [f"{sparsity:g}" for sparsity in ticks], fontsize=7.5
    )


def _place(sparsity: float) -> float:
    """How many decades of the weights are gone."""
    return -log10(1 - sparsity)
