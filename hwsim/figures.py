"""Pictures: the sweep over the amount of noise, and when each part of the machine works on a layer."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from hwsim.counters import LayerTrace
from hwsim.errors import InputError
from hwsim.sweep import FIGURES

COLORS = {"projection": "#0072b2", "approximate": "#e69f00", "precise": "#444444"}
STYLES = {"random": "-", "measured": "--"}
MARKERS = "so^vD"
DATES = {".png": {"Software": None}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
"""Formats of pictures, and what would make the bytes of two equal ones differ."""

OTHER = "other noise"
KINDS = ("ratio", "N:M", OTHER)
"""Of noise, by what it is called in tables; of the last kind a share says too little to join the points."""


def noise_sweep(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Everything over the share of noisy neurons, relative to the dense network, one panel for each figure.

    One row of panels for each network. Ratios are filled, patterns open; solid lines are random masks, broken
    ones measured masks. Crosses are the dense network on each core, where the rows have it. Other noise, such
    as a ratio for each layer, is on no line.

    Args:
        rows: as `hwsim.sweep.Point.row` gives them, or the pipeline's table of simulations; of several
            variants with equal noise the mean is drawn.
    """
    networks = list(dict.fromkeys(row["network"] for row in rows))
    figure = Figure(figsize=(3.1 * len(FIGURES), 2.9 * len(networks) + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(networks), len(FIGURES), squeeze=False, sharex=True, sharey="col")
    for line, network in zip(axes, networks, strict=True):
        own = [row for row in rows if row["network"] == network]
        for ax, (name, title) in zip(line, FIGURES.items(), strict=True):
            _panel(ax, own, f"{name}_over_dense")
            ax.set_title(f"{network}: {title}", fontsize=9)
    for ax in axes[-1]:
        ax.set_xlabel("neurons with noise, %", fontsize=8)
    axes[0][0].set_ylabel("over the dense network", fontsize=8)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure


def _panel(ax: Axes, rows: Sequence[Mapping[str, Any]], name: str) -> None:
    series: dict[tuple[str, int], dict[str, dict[float, list[float]]]] = {}
    dense: dict[str, list[float]] = {}
    for row in rows:
        if row["masks"] == "none":
            dense.setdefault(row["core"], []).append(float(row[name]))
            continue
        kind = 0 if row["noise"].endswith("%") else 1 if ":" in row["noise"] else 2
        of_kind = series.setdefault((row["core"], kind), {}).setdefault(row["masks"], {})
        of_kind.setdefault(100 * float(row["noisy_share"]), []).append(float(row[name]))
    for index, ((core, kind), by_origin) in enumerate(sorted(series.items())):
        for origin, points in sorted(by_origin.items()):
            shares = sorted(points)
            ax.plot(
                shares,
                [fmean(points[share]) for share in shares],
                linestyle="none" if KINDS[kind] == OTHER else STYLES[origin],
                marker=MARKERS[index % len(MARKERS)],
                markersize=4,
                linewidth=1,
                color=f"C{index}",
                markerfacecolor=f"C{index}"
                if KINDS[kind] == "ratio" or (KINDS[kind], origin) == (OTHER, "random")
                else "none",
                label=f"{core} core, {KINDS[kind]}, {origin} masks",
            )
    colors = {core: f"C{index}" for index, (core, _) in reversed(list(enumerate(sorted(series))))}
    for core, values in sorted(dense.items()):
        ax.plot([0], [fmean(values)], "x", color=colors.get(core, "k"), label=f"{core} core, dense")
    ax.axhline(1, color="#bbbbbb", linewidth=0.8, zorder=0)
    if name.startswith("operations"):
        ax.set_yscale("log", subs=(1, 2, 3, 5))
        for set_formatter in (ax.yaxis.set_major_formatter, ax.yaxis.set_minor_formatter):
            set_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    else:
        ax.set_ylim(bottom=0)
    ax.tick_params(labelsize=8)


def timeline(trace: LayerTrace, title: str) -> Figure:
    """When the projection and the vector units work on which tile; white is waiting."""
    figure = Figure(figsize=(9, 2.4), layout="constrained")
    FigureCanvasAgg(figure)
    ax = figure.subplots()
    rows = {"projection": 1, "approximate": 0, "precise": 0}
    for part, color in COLORS.items():
        spans = [(one.start, one.end - one.start) for one in trace.passes if one.part == part]
        if spans:
            ax.broken_barh(
                spans, (rows[part] - 0.35, 0.7), facecolor=color, edgecolor="white", linewidth=0.3, label=part
            )
    ax.set_yticks([0, 1], ["vector units", "projection"], fontsize=8)
    ax.set_xlim(0, trace.counters.cycles)
    ax.set_xlabel("cycle", fontsize=8)
    ax.tick_params(labelsize=8)
    ax.set_title(title, fontsize=9)
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=8, frameon=False)
    return figure


def check_format(path: Path) -> None:
    """Raise `InputError` unless a picture can be saved under this name."""
    if path.suffix not in DATES:
        raise InputError(f"{str(path)!r} is no name of a picture; expected the ending {', '.join(DATES)}")


def save(figure: Figure, path: Path) -> None:
    """Write a picture whose bytes depend on its content alone; the ending says the format."""
    check_format(path)
    with rc_context({"svg.hashsalt": "hwsim"}):  # else an .svg names its parts at random
        figure.savefig(path, dpi=150, metadata=DATES[path.suffix])
