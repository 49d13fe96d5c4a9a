"""What happens layer by layer: how well the approximation was distilled, and how much stays precise."""

from collections.abc import Sequence

import polars as pl
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from analysis.figures.drawing import SETTINGS, quiet_grid
from analysis.figures.series import NothingToDrawError, foot, look, new_figure, panel_title, shared_legend
from analysis.files import MOST

QUALITY = {
    "nmse": "error / variance, before rounding",
    "nmse_quantized": "error / variance, rounded",
    "top_k_recall": "share of essential neurons found",
}
# On the cells, whose colours are the same on a light page and on a dark one: not colours that a page changes.
ON_DARK, ON_LIGHT = "#fefefe", "#101214"
WIDTH, LINE_HEIGHT = 7.4, 0.19  # inches


def draw(layers: pl.DataFrame) -> Figure:
    """The figure of the rows of `analysis.files.layers`.

    A panel for each distilled network: the error of each layer's approximation as a share of the variance
    (logarithmic, left), and the share of essential neurons that it finds (right). Below, the share of
    neurons that each fine-tuned network computes precisely, by layer: dark is none, light is all.
    Raises `NothingToDrawError` where no run has such files.
    """
    distilled = _networks(layers, QUALITY)
    tuned = _networks(layers, ["density"])
    if not distilled and not tuned:
        raise NothingToDrawError("no distill or finetune run has its numbers by layer")
    heights = [2.3] * len(distilled) + ([1.0 + LINE_HEIGHT * len(tuned)] if tuned else [])
    with rc_context(SETTINGS):
        figure = new_figure(WIDTH, sum(heights) + 0.7)
        grid = figure.add_gridspec(len(heights), 1, height_ratios=heights)
        for place, network in enumerate(distilled):
            ax = figure.add_subplot(grid[place])
            _quality(ax, layers.filter(pl.col("network") == network))
            panel_title(ax, network.replace(", ", "\n", 1))
        shared_legend(figure, columns=3)
        if tuned:
            ax = figure.add_subplot(grid[len(distilled)])
            _densities(figure, ax, layers.filter(pl.col("measure") == "density"), tuned)
        shown = f"at most {MOST['distill']} distilled and {MOST['finetune']} fine-tuned networks are shown"
        foot(
            figure,
            f"each number is that of one network, layer and seed: there are no intervals; {shown}",
        )
    return figure


def _networks(layers: pl.DataFrame, measures: Sequence[str] | dict[str, str]) -> list[str]:
    chosen = layers.filter(pl.col("measure").is_in(list(measures)))
    return chosen["network"].unique(maintain_order=True).to_list()


def _quality(ax: Axes, own: pl.DataFrame) -> None:
    quiet_grid(ax)
    right = ax.twinx()
    right.spines["right"].set_visible(True)
    for place, (measure, label) in enumerate(QUALITY.items()):
        found = own.filter(pl.col("measure") == measure).sort("place")
        style = look(place)
        (right if measure == "top_k_recall" else ax).plot(
            found["place"], found["value"], color=style.colour, marker=style.marker, linestyle=style.line,
            markersize=4, linewidth=1.1, label=label,
        )  # fmt: skip
    ax.set_yscale("log")
    ax.yaxis.set_minor_formatter(NullFormatter())
    right.set_ylim(0, 1.05)
    right.set_ylabel("essential neurons found")
    ax.set_ylabel("error / variance")
    names = own.filter(pl.col("measure") == "nmse").sort("place")
    ax.set_xticks(names["place"].to_list(), _short(names["layer"].to_list()), rotation=90, fontsize=6)


def _densities(figure: Figure, ax: Axes, own: pl.DataFrame, tuned: Sequence[str]) -> None:
    longest = own.filter(pl.col("network").is_in(list(tuned))).sort("place")
    layers = longest["layer"].unique(maintain_order=True).to_list()
    found = {(row["network"], row["layer"]): row["value"] for row in own.iter_rows(named=True)}
    values = [[found.get((network, layer), float("nan")) for layer in layers] for network in tuned]
    # cividis: its lightness alone orders the values, in grey and for every kind of colour vision
    mesh = ax.pcolormesh(values, cmap="cividis", vmin=0, vmax=1, edgecolors="white", linewidth=0.4)
    ax.invert_yaxis()
    shared, labels = _without_shared_start(tuned)
    ax.set_yticks([place + 0.5 for place in range(len(tuned))], labels, fontsize=6)
    ax.set_xticks([place + 0.5 for place in range(len(layers))], _short(layers), rotation=90, fontsize=6)
    ax.tick_params(length=0)
    panel_title(ax, f"neurons computed precisely{f': {shared}' if shared else ''}")
    if len(layers) <= 12:
        for line, row in enumerate(values):
            for column, value in enumerate(row):
                ax.text(
                    column + 0.5, line + 0.5, f"{100 * value:.3g}", ha="center", va="center", fontsize=5.5,
                    color=ON_DARK if value < 0.6 else ON_LIGHT,
                )  # fmt: skip
    bar = ax.inset_axes((1.02, 0.0, 0.02, 1.0))
    figure.colorbar(mesh, cax=bar).set_label("share; in the cells in %", fontsize=7)


def _without_shared_start(networks: Sequence[str]) -> tuple[str, list[str]]:
    """What all names begin with, up to a comma, and the rests."""
    parts = [network.split(", ") for network in networks]
    count = 0
    while all(len(own) > count + 1 and own[count] == parts[0][count] for own in parts):
        count += 1
    return ", ".join(parts[0][:count]), [", ".join(own[count:]) for own in parts]


def _short(names: Sequence[str]) -> list[str]:
    return [name.removeprefix("stages.") for name in names]
