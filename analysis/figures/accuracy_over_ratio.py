"""Figure 4: accuracy over the share of neurons with noise, for three choices of those neurons."""

import csv
from collections.abc import Mapping
from functools import cache

import polars as pl
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import names
from analysis.figures.drawing import INK, MUTED, SETTINGS, quiet_grid
from analysis.figures.printed import CLEAN_FALLS_AT, ESSENTIAL_FALLS_AT, ROBUST_RISES_AT, paper_data_set
from analysis.figures.series import (
    NothingToDrawError,
    beside,
    counted,
    curve,
    foot,
    look,
    new_figure,
    panel_title,
    printed_points,
    shared_legend,
)
from analysis.networks import CLEAN, Network, networks, teacher_of
from analysis.paper import REFERENCE
from analysis.tables.robustness import WORST_CASE

TARGETS = {"non_essential": "non-essential", "essential": "essential", "random": "random neurons"}
OBJECTIVES = {"clean": "clean images", "adversarial": "adversarial images"}
MEASURES = {CLEAN: "clean images", "pgd20": "PGD-20, blocked", WORST_CASE: "worst case of all attacks"}
# Where the paper sees something begin: (measure, ratio, what it says in short).
MARKS = (
    (CLEAN, CLEAN_FALLS_AT, "paper: non-essential\nfalls from here"),
    (CLEAN, ESSENTIAL_FALLS_AT, "paper: essential\nfalls from here"),
    ("pgd20", ROBUST_RISES_AT, "paper: rises\nfrom here"),
)
FEWEST_RATIOS = 2
SIDESTEP = 1.2  # percent of the neurons
WIDTH, HEIGHT = 2.9, 2.7  # inches, of a panel


def draw(runs: pl.DataFrame) -> Figure:
    """The figure of the runs of one experiment (rows of `analysis.load_runs`).

    A row of panels for each data set, architecture, teacher and fine-tuning objective; panels for clean
    images, PGD-20 and the worst case. Horizontal: the ratio in percent, 0 is the dense network. A curve for
    each choice of the noisy neurons. Grey crosses are what the paper's table 4 prints for ResNet-18 on that
    data set, dotted verticals the ratios at which its section 4.5 sees something begin.
    Raises `NothingToDrawError` unless some network has two ratios.
    """
    groups = ratio_curves(runs)
    if not groups:
        raise NothingToDrawError("no network has noise at two ratios or more (grid figure4 or small-figure4)")
    measures = [name for name in MEASURES if any(_has(group, name) for group in groups.values())]
    with rc_context(SETTINGS):
        figure = new_figure(WIDTH * len(measures), HEIGHT * len(groups) + 0.7)
        axes = figure.subplots(len(groups), len(measures), squeeze=False, sharex=True, sharey="row")
        for line, (title, group) in zip(axes, groups.items(), strict=True):
            for ax, measure in zip(line, measures, strict=True):
                _panel(ax, group, measure)
                panel_title(
                    ax, f"{title}\n{MEASURES[measure]}" if ax is line[0] else f"\n{MEASURES[measure]}"
                )
            line[0].set_ylabel("Accuracy in %")
        for ax in axes[-1]:
            ax.set_xlabel("neurons with noise in %")
        shared_legend(figure)
        found = [
            one.accuracy(CLEAN) for group in groups.values() for own in group.values() for one in own.values()
        ]
        rest = counted([one.images for one in found if one], [one.seeds for one in found if one])
        foot(figure, f"0% is the dense network; bars: 95% intervals; {rest}")
    return figure


Curves = Mapping[str, Mapping[float, Network]]
"""Networks by target and by ratio; ratio 0 is the dense one."""


def ratio_curves(runs: pl.DataFrame) -> dict[str, Curves]:
    """By title (data, teacher, objective): networks with a ratio for all layers and nothing else unusual.

    Titles without two ratios for any target are left out.
    """
    every = networks(runs)
    found: dict[str, dict[str, dict[float, Network]]] = {}
    for network in every:
        if network.is_dense or network.identity["ratio"] is None or not network.is_plain:
            continue
        target = network.identity["target"] or "non_essential"
        group = found.setdefault(_title(network), {})
        own = group.setdefault(target, {})
        dense = teacher_of(network, every)
        if dense:
            own[0.0] = dense
        own[float(network.identity["ratio"])] = network
    return {
        title: {target: dict(sorted(group[target].items())) for target in TARGETS if target in group}
        for title, group in found.items()
        if any(len([ratio for ratio in own if ratio > 0]) >= FEWEST_RATIOS for own in group.values())
    }


def _title(network: Network) -> str:
    teacher = network.runs[0]["trained_by"]
    objective = OBJECTIVES.get(network.identity["objective"] or "", network.identity["objective"])
    tuned = f", fine-tuned on {objective}" if objective else ""
    on = "" if teacher in names.PLAIN else f", {teacher}"
    epochs = network.identity["pretrain_epochs"]
    return f"{network.subject}{on}{tuned}" + (f", {epochs} epochs" if epochs else "")


def _has(group: Curves, measure: str) -> bool:
    return any(one.accuracy(measure) for own in group.values() for one in own.values())


def _panel(ax: Axes, group: Curves, measure: str) -> None:
    quiet_grid(ax)
    for place, (target, label) in enumerate(TARGETS.items()):
        points = [
            (100 * ratio + beside(place, len(TARGETS), SIDESTEP), accuracy)
            for ratio, network in group.get(target, {}).items()
            if (accuracy := network.accuracy(measure))
        ]
        curve(ax, points, look(place), f"noise in {label}")
    dataset = next(iter(next(iter(group.values())).values())).identity["dataset"]
    known = [(100 * ratio, 100 * value) for ratio, value in printed(dataset, measure).items()]
    printed_points(ax, known, "printed in the paper (table 4, ResNet-18)")
    for of, ratio, text in MARKS:
        if of == measure and (ratio != ESSENTIAL_FALLS_AT or "essential" in group):
            ax.axvline(100 * ratio, color=MUTED, linestyle=":", linewidth=1)
            offset, side = (2.5, "left") if ratio < 0.5 else (-2.5, "right")
            ax.annotate(
                text, (100 * ratio, 0), xycoords=ax.get_xaxis_transform(), xytext=(offset, 3),
                textcoords="offset points", ha=side, va="bottom", fontsize=6, color=INK,
            )  # fmt: skip
    ax.set_xlim(-4, 104)
    ax.set_xticks(range(0, 101, 20))


@cache
def _table4() -> tuple[Mapping[str, str], ...]:
    with (REFERENCE / "table4.csv").open(newline="") as file:
        return tuple(csv.DictReader(file))


def printed(dataset: str | None, measure: str) -> dict[float, float]:
    """Ratio -> accuracy (fractions) as the paper's table 4 prints them; empty for other data and measures."""
    found = {}
    for row in _table4():
        kind, _, amount = row["method"].rpartition(" ")
        if kind == "Noise Injection Ratio" and row["dataset"] == paper_data_set(dataset) and row.get(measure):
            found[float(amount.removesuffix("%")) / 100] = float(row[measure]) / 100
    return found
