"""The front of a search as a picture: worst case over energy x time."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.search_results import FRONT, Results, Trial

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}, "pdf": {"CreationDate": None}}
"""Kinds of files, and what is kept out of them: equal searches give equal bytes."""
SETTINGS = {"svg.hashsalt": "nenni", "svg.fonttype": "path", "pdf.fonttype": 42, "font.size": 8.5}
INK, MUTED = "#1f2328", "#6e7781"
SEARCHED, UNIFORM = "#0072b2", "#d55e00"  # Okabe & Ito; markers and lines differ as well


def draw(results: Results) -> "Figure":
    """The figure: the front as filled circles joined by steps, uniform ratios as squares with their ratio.

    Vertical is the share of validation images that are right under all attacks together, with 95% Wilson
    intervals; horizontal energy x time over the dense network's, on a logarithmic axis. Choices off the front
    are small crosses. The square of a uniform ratio is filled where it is on the front.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    figure = Figure(figsize=(5.2, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    front = results.front
    others = [trial for trial in results.scored if trial not in front and not trial.is_uniform]
    axes.plot(
        *_places(others),
        linestyle="",
        marker="x",
        color=MUTED,
        markersize=4,
        alpha=0.8,
        label="searched, not on it",
    )
    axes.step(*_places(front), where="post", color=SEARCHED, linewidth=1.2, zorder=2)
    own = [trial for trial in front if not trial.is_uniform]
    _with_bars(axes, own, SEARCHED, "o", SEARCHED, "front, ratios by layer")
    on_front = [trial for trial in results.uniform if trial in front]
    off_front = [trial for trial in results.uniform if trial not in front]
    _with_bars(axes, on_front, UNIFORM, "s", UNIFORM, "front, one ratio")
    _with_bars(axes, off_front, UNIFORM, "s", "white", "one ratio, not on it")
    for trial in results.uniform:
        x, y = _places([trial])
        axes.annotate(
            f"{max(trial.ratios.values()):g}",
            (x[0], y[0]),
            xytext=(5, 4),
            textcoords="offset points",
            color=INK,
            fontsize=7.5,
        )
    images = {trial.found.images for trial in results.scored if trial.found}
    axes.set_ylabel(f"Worst case, % of {' or '.join(map(str, sorted(images)))} validation images", color=INK)
    axes.set_xlabel("Energy x time, relative to the dense network", color=INK)
    axes.grid(color=MUTED, alpha=0.18, linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.legend(frameon=False, fontsize=7.5, ncols=2, loc="outside upper left")
    figure.supxlabel(
        "bars: 95% intervals; chosen by these images: see the test images for what the winners are worth",
        fontsize=7,
        color=MUTED,
    )
    return figure


def _places(trials: Sequence[Trial]) -> tuple[list[float], list[float]]:
    found = [trial.found for trial in trials if trial.found]
    return [one.edp for one in found], [100 * one.worst_case for one in found]


def _with_bars(
    axes: "Axes", trials: Sequence[Trial], colour: str, marker: str, face: str, label: str
) -> None:
    if not trials:
        return
    places, values = _places(trials)
    ends = [trial.found.interval for trial in trials if trial.found]
    axes.errorbar(
        places,
        values,
        yerr=[
            [value - 100 * low for value, (low, _) in zip(values, ends, strict=True)],
            [100 * high - value for value, (_, high) in zip(values, ends, strict=True)],
        ],
        fmt=marker,
        color=colour,
        markerfacecolor=face,
        markersize=5,
        markeredgewidth=1.2,
        elinewidth=0.8,
        capsize=2,
        zorder=3,
        label=label,
    )


def save(results: Results, folder: Path) -> list[Path]:
    """Write `front.svg`, `.png` and `.pdf`; nothing without a trial that has a score."""
    from matplotlib import rc_context

    if not results.scored:
        return []
    paths = []
    for kind, metadata in FORMATS.items():
        with rc_context(SETTINGS):
            path = folder / f"{FRONT}.{kind}"
            draw(results).savefig(path, dpi=200, metadata=metadata)
            paths.append(path)
    return paths
