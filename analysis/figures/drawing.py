"""How all figures look, and how they become files that are the same every time."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.typing import LineStyleType

FORMATS = ("svg", "png", "pdf")
# Okabe and Ito's palette, told apart in grey as well: every series has its own marker and line style.
SERIES_STYLES = (("#0072B2", "o", "-"), ("#D55E00", "s", "--"), ("#009E73", "^", ":"))
# What figures with more series go on with.
FURTHER_STYLES: tuple[tuple[str, str, LineStyleType], ...] = (
    ("#CC79A7", "D", "-."),
    ("#8C6D00", "v", (0, (6, 1, 1, 1, 1, 1))),
    ("#3F4650", "P", (0, (8, 2))),
)
INK = "#1f2328"
MUTED = "#6e7781"
# A fixed salt and no dates: the same table gives the same bytes.
SETTINGS = {
    "svg.hashsalt": "nenni",
    "svg.fonttype": "path",
    "pdf.fonttype": 42,
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.linewidth": 0.8,
}
METADATA: dict[str, dict[str, None]] = {
    "svg": dict.fromkeys(("Date", "Creator", "Format", "Type")),
    "png": {"Software": None},
    "pdf": {"CreationDate": None},
}


def render(figure: Figure, kind: str) -> bytes:
    """`figure` as the bytes of an "svg", "png" or "pdf" file; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    with rc_context(SETTINGS):
        figure.savefig(buffer, format=kind, dpi=200, metadata=METADATA[kind])
    return buffer.getvalue()


def settle(figure: Figure) -> None:
    """Lay `figure` out for good: inside the settings, and not again for every file, which takes longest."""
    for _ in range(2):  # once more with the sizes that the first time has found
        figure.draw_without_rendering()
    figure.set_layout_engine("none")


def save(figure: Figure | None, folder: Path, name: str) -> list[Path]:
    """Write svg/<name>.svg, png/<name>.png and pdf/<name>.pdf into `folder`; no paths for no figure."""
    return [] if figure is None else write({kind: render(figure, kind) for kind in FORMATS}, folder, name)


def write(files: Mapping[str, bytes], folder: Path, name: str) -> list[Path]:
    """Write a figure's files by format, each format into a folder of its own; their paths.

    DVC shows all pictures of a folder, and stumbles over a PDF in it.
    """
    written = []
    for kind, content in files.items():
        path = folder / kind / f"{name}.{kind}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        written.append(path)
    return written


def quiet_grid(ax: Axes) -> None:
    """Faint horizontal lines behind the data."""
    ax.grid(axis="y", color=MUTED, alpha=0.18, linewidth=0.6)
    ax.set_axisbelow(True)


def points_with_bars(
    ax: Axes,
    places: Sequence[float],
    values: Sequence[float],
    intervals: Sequence[tuple[float, float]],
    colour: str,
    marker: str,
    *,
    filled: bool,
) -> None:
    """Points at (place, value) with a bar over the interval (low, high) of each."""
    if not places:
        return
    below = [value - low for value, (low, _) in zip(values, intervals, strict=True)]
    above = [high - value for value, (_, high) in zip(values, intervals, strict=True)]
    ax.errorbar(
        places,
        values,
        yerr=[below, above],
        fmt=marker,
        color=colour,
        markersize=5,
        markerfacecolor=colour if filled else "white",
        markeredgewidth=1.2,
        elinewidth=0.9,
        capsize=2,
        zorder=3,
    )
