"""Figure 5: time, energy, their product and the efficiencies on the accelerator, relative to dense."""

from collections.abc import Mapping, Sequence

import polars as pl
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from analysis.figures.drawing import MUTED, SETTINGS, quiet_grid
from analysis.figures.series import (
    Look,
    NothingToDrawError,
    curve,
    foot,
    look,
    new_figure,
    panel_title,
    shared_legend,
)
from analysis.networks import Measured, Network, networks

# Metrics of `simulate` runs, each over the dense network's on the smallest core.
FIGURES = {
    "seconds_over_dense": "time",
    "joules_over_dense": "energy",
    "energy_delay_joule_seconds_over_dense": "energy x time",
    "operations_per_joule_over_dense": "operations per joule",
    "operations_per_second_mm2_over_dense": "operations per s and mm²",
}
MORE_IS_BETTER = ("operations_per_joule_over_dense", "operations_per_second_mm2_over_dense")
# By core, rule and origin of the masks; the masks of real images are filled, random ones open.
SERIES = {
    ("unstructured", "ratio"): "ratios, core for any mask",
    ("unstructured", "pattern"): "N:8 patterns, core for any mask",
    ("structured", "pattern"): "N:8 patterns, core for N:8 masks",
}
ORIGINS = {"measured": "masks of real images", "random": "random masks"}
WIDTH, HEIGHT = 2.35, 2.5  # inches, of a panel


def draw(runs: pl.DataFrame) -> Figure:
    """The figure of the runs of one experiment (rows of `analysis.load_runs`, every stage).

    A row of panels for each data set and architecture, one for each number of `FIGURES`, over the share of
    neurons with noise in percent; 1 is the dense network. The paper prints no numbers of its figure 5.
    Raises `NothingToDrawError` unless a network with noise was simulated.
    """
    subjects = simulated(runs)
    if not subjects:
        raise NothingToDrawError("no network with noise was simulated (grid figure5 or small-figure5)")
    with rc_context(SETTINGS):
        figure = new_figure(WIDTH * len(FIGURES), HEIGHT * len(subjects) + 0.8)
        axes = figure.subplots(len(subjects), len(FIGURES), squeeze=False, sharex=True, sharey="col")
        for line, (subject, own) in zip(axes, subjects.items(), strict=True):
            for ax, (metric, title) in zip(line, FIGURES.items(), strict=True):
                _panel(ax, own, metric)
                panel_title(ax, f"{subject}\n{title}" if ax is line[0] else f"\n{title}")
            line[0].set_ylabel("over the dense network")
        for ax in axes[-1]:
            ax.set_xlabel("neurons with noise in %")
        shared_legend(figure, columns=3)
        images = sorted({int(one.runs[0]["images"] or 0) for own in subjects.values() for one in own})
        seeds = max(len(one.runs) for own in subjects.values() for one in own)
        spread = "; bars: 95% intervals over the seeds" if seeds > 1 else ""
        foot(
            figure,
            f"means over {' or '.join(map(str, images))} images, {seeds} seed{'s' * (seeds > 1)}{spread}; "
            "left three: less is better, right two (logarithmic): more is better",
        )
    return figure


def simulated(runs: pl.DataFrame) -> dict[str, list[Network]]:
    """By architecture and data: simulated networks with noise of one share in all layers."""
    found: dict[str, list[Network]] = {}
    for network in networks(runs, stage="simulate"):
        if network.noisy_share is not None and not network.is_dense and network.is_plain:
            found.setdefault(network.subject, []).append(network)
    return found


def series(own: Sequence[Network], metric: str) -> dict[tuple[str, str, str], list[tuple[float, Measured]]]:
    """By core, rule ("ratio" or "pattern") and origin: (noisy share, number over dense), ascending."""
    found: dict[tuple[str, str, str], list[tuple[float, Measured]]] = {}
    for network in own:
        if network.identity["target"] not in (None, "non_essential") or network.noisy_share is None:
            continue
        rule = "pattern" if network.identity["pattern"] else "ratio"
        for core, of_rule in SERIES:
            for origin in ORIGINS:
                number = network.metric(f"{metric}/{core}/{origin}")
                if of_rule == rule and number:
                    found.setdefault((core, rule, origin), []).append((network.noisy_share, number))
    return {key: sorted(points, key=lambda point: point[0]) for key, points in found.items()}


def _panel(ax: Axes, own: Sequence[Network], metric: str) -> None:
    quiet_grid(ax)
    ax.axhline(1, color=MUTED, linewidth=0.8)
    found: Mapping[tuple[str, str, str], list[tuple[float, Measured]]] = series(own, metric)
    for place, ((core, rule), label) in enumerate(SERIES.items()):
        for origin, words in reversed(ORIGINS.items()):  # what real images say lies on top
            points = [(100 * share, number) for share, number in found.get((core, rule, origin), [])]
            style = look(place)
            real = origin == "measured"
            drawn = Look(style.colour, style.marker, "-" if real else ":", filled=real)
            curve(ax, points, drawn, f"{label}, {words}", scale=1)
    ax.set_xlim(-3, 103)
    ax.set_xticks([0, 50, 100])
    if metric in MORE_IS_BETTER:
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(FixedLocator([0.5, 1, 2, 5, 10, 20]))
        ax.yaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    else:
        ax.set_ylim(bottom=0)
