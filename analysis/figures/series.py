"""What figures of several panels have in common: series told apart in grey, legends, empty figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.typing import LineStyleType

from analysis.comparison import Estimate
from analysis.figures.drawing import FURTHER_STYLES, MUTED, SERIES_STYLES, points_with_bars, settle
from analysis.networks import Network

PAPER_RATIOS = (0.9, 0.99)
STYLES = (*SERIES_STYLES, *FURTHER_STYLES)


class NothingToDrawError(Exception):
    """The runs have not what the figure shows; the message says what is missing, as the end of a sentence."""


@dataclass(frozen=True)
class Look:
    """How one series looks: colour, marker and line differ, and what comes after all of them is open."""

    colour: str
    marker: str
    line: LineStyleType
    filled: bool = True


def look(place: int, *, filled: bool = True) -> Look:
    """The look of the series at `place`, counted from 0."""
    colour, marker, line = STYLES[place % len(STYLES)]
    return Look(colour, marker, line, filled and place < len(STYLES))


def looks(labels: Sequence[str]) -> Mapping[str, Look]:
    """A look for each of the `labels`, in their order."""
    return {label: look(place) for place, label in enumerate(dict.fromkeys(labels))}


def foremost(found: Sequence[Network]) -> tuple[list[Network], str]:
    """The networks that one panel can show, in their order, and a note of how many it cannot ("" for none).

    The dense ones and the paper's ratios go first, then other networks with noise in non-essential neurons.
    """

    def rank(network: Network) -> int:
        usual = network.identity["target"] in (None, "non_essential")
        paper = network.is_dense or network.identity["ratio"] in PAPER_RATIOS
        return 2 * (not usual) + (not paper)

    chosen = sorted(found, key=rank)[: len(STYLES)]
    shown = [network for network in found if network in chosen]
    left_out = len(found) - len(shown)
    return shown, f"; networks not drawn: {left_out}" if left_out else ""


def beside(place: int, count: int, step: float) -> float:
    """How far the series at `place` of `count` stands aside, so that bars can be told apart."""
    return (place - (count - 1) / 2) * step


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of that size in inches; call it inside the settings of `drawing`."""
    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(hspace=0.06, wspace=0.04))
    FigureCanvasAgg(figure)
    return figure


def curve(
    ax: Axes,
    points: Sequence[tuple[float, Estimate]],
    style: Look,
    label: str,
    *,
    scale: float = 100,
    joined: bool = True,
) -> None:
    """Points (place, estimate), joined by a line, with their intervals; `scale` 100 makes percent."""
    if not points:
        return
    places = [place for place, _ in points]
    values = [scale * number.value for _, number in points]
    intervals = [(scale * low, scale * high) for _, number in points for low, high in [number.interval]]
    if joined and len(points) > 1:
        ax.plot(places, values, color=style.colour, linestyle=style.line, linewidth=1.2, zorder=2)
    points_with_bars(ax, places, values, intervals, style.colour, style.marker, filled=style.filled)
    ax.plot(
        [],
        [],
        color=style.colour,
        marker=style.marker,
        linestyle=style.line if joined else "",
        markerfacecolor=style.colour if style.filled else "white",
        markersize=5,
        linewidth=1.2,
        label=label,
    )


def printed_points(ax: Axes, points: Sequence[tuple[float, float]], label: str) -> None:
    """What the paper prints, as grey crosses without intervals."""
    if points:
        ax.plot(
            [place for place, _ in points],
            [value for _, value in points],
            marker="x",
            markersize=5.5,
            markeredgewidth=1.1,
            linestyle="",
            color=MUTED,
            label=label,
            zorder=1.5,
        )


def shared_legend(figure: Figure, *, columns: int = 4) -> None:
    """One legend above all panels with every label once."""
    entries: dict[str, Any] = {}
    for ax in figure.axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    if entries:
        figure.legend(
            list(entries.values()),
            list(entries),
            loc="outside upper left",
            ncols=columns,
            frameon=False,
            fontsize=7.5,
            handlelength=2.6,
            columnspacing=1.2,
        )


def foot(figure: Figure, text: str) -> None:
    """Small lines below everything that say how to read it; then the layout is settled for good."""
    figure.supxlabel(text, fontsize=7, color=MUTED)
    settle(figure)


def panel_title(ax: Axes, text: str) -> None:
    """The title of a panel, to the left."""
    ax.set_title(text, loc="left", fontsize=8.5, fontweight="bold")


def counted(images: Sequence[int | None], seeds: Sequence[int]) -> str:
    """What the shares rest on: "150 test images, 1 seed"."""
    known = sorted({count for count in images if count})
    several = sorted(set(seeds)) or [1]
    shown = " or ".join(str(count) for count in known) or "an unknown number of"
    plural = "" if several == [1] else "s"
    return f"{shown} test images, {' or '.join(map(str, several))} seed{plural}"
