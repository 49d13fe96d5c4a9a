"""Accuracy over cost: what a network that computes less still gets right."""

from collections.abc import Sequence
from textwrap import fill

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from analysis import names
from analysis.comparison import Share
from analysis.figures.drawing import INK, MUTED, SERIES_STYLES, SETTINGS, points_with_bars, quiet_grid, settle
from analysis.summary import STRAIGHT, attack_pair
from analysis.tables.robustness import RobustnessTable, Row

NAME = "accuracy_over_bitops"
# Left end of the horizontal axis: the names of the series stand between it and zero.
LEFT = -38
# Points of one network are set side by side by this much (percent of the dense BitOPs), so that their
# error bars can be told apart.
SIDESTEP = 0.9
PANEL = ("model", "dataset", "objective", "seed", "trained_by", "pretrain_epochs")
MOST_PANELS = 6
TITLE_WIDTH = 56  # characters
NAME_HEIGHT = 9.5  # points, of a line of networks' names
WIDTH, PANEL_HEIGHT, FRAME_HEIGHT = 4.8, 2.9, 0.9  # inches


def draw(table: RobustnessTable) -> Figure | None:
    """The figure of `table`; None if no network has both a cost and an accuracy.

    One panel per fine-tuning objective, of many (as there are with many seeds) the first `MOST_PANELS`, with
    a word of how many there are. Horizontal: nominal BitOPs in percent of the dense network's.
    Vertical: accuracy in percent with its 95% Wilson interval: clean, under the longest PGD with blocked
    gradients, and for who knows the defence (`analysis.summary.attack_pair`). Ratios are filled and joined
    by a line, N:M patterns and layers' own ratios are open; the dense teacher stands at 100%, its accuracy
    runs across the panel as a thin line.
    """
    noisy = [row for row in table.rows if not row.is_dense and row.cost is not None and row.images]
    if not noisy:
        return None
    panels: dict[tuple[str, ...], list[Row]] = {}
    for row in noisy:
        panels.setdefault(_panel(row), []).append(row)
    left_out = max(0, len(panels) - MOST_PANELS)
    panels = dict(list(panels.items())[:MOST_PANELS])
    columns = ["clean", *(column for column in attack_pair(table) if column)]
    with rc_context(SETTINGS):
        height = len(panels) * PANEL_HEIGHT + FRAME_HEIGHT
        figure = Figure(figsize=(WIDTH, height), layout=ConstrainedLayoutEngine(hspace=0.05))
        FigureCanvasAgg(figure)
        axes = figure.subplots(len(panels), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
        _frame(axes[0], [*noisy, *(row for row in table.rows if row.is_dense)], columns)
        several = [name for name in PANEL[3:] if len({row.identity[name] for row in noisy}) > 1]
        for ax, rows in zip(axes, panels.values(), strict=True):
            _draw_panel(ax, table, rows, columns, _title(rows[0], several))
        dense = {row.bitops_dense for row in noisy}
        size = f"dense network's {names.magnitude(dense.pop())}" if len(dense) == 1 else "dense network's"
        axes[-1].set_xlabel(f"BitOPs of one image, % of the {size}")
        key_line = "bars: 95% intervals; thin lines: dense teacher"
        if left_out:
            key_line = f"{key_line}\n{left_out} more of {len(panels) + left_out} panels are not drawn"
        kinds = {"N:M pattern": "pattern", "ratios by layer": "layer_ratios"}
        opened = [kind for kind, name in kinds.items() if any(row.identity[name] for row in noisy)]
        if opened:
            key_line = f"filled: ratio; open: {' or '.join(opened)}; {key_line}"
        figure.supxlabel(key_line, fontsize=7.5, color=MUTED)
        settle(figure)
    return figure


def _panel(row: Row) -> tuple[str, ...]:
    """What a panel's networks have in common: all of the identity but where the noise goes."""
    values = (row.identity[name] for name in PANEL)
    return (*("" if value is None else str(value) for value in values), *names.departures(row.identity))


def _title(row: Row, several: list[str]) -> str:
    """What the networks of a panel are; of seed and teacher only what differs between panels."""
    value = row.identity
    tuned = f"fine-tuned on {value['objective']} images" if value["objective"] else "not fine-tuned"
    telling = [f"{name} {value[name]}".replace("_", " ") for name in several if value[name] is not None]
    return ", ".join([f"{value['model']} on {value['dataset']}", tuned, *names.departures(value), *telling])


def _draw_panel(ax: Axes, table: RobustnessTable, rows: list[Row], columns: list[str], title: str) -> None:
    ax.set_ylabel("Accuracy in %")
    quiet_grid(ax)
    dense = table.dense_for(rows[0])
    labels: list[tuple[float, str, str]] = []
    for place, (column, (colour, marker, line)) in enumerate(zip(columns, SERIES_STYLES, strict=False)):
        shift = (place - (len(columns) - 1) / 2) * SIDESTEP
        reference = dense.cells[column] if dense else None
        if reference:
            ax.axhline(
                100 * reference.value, color=colour, linewidth=0.7, linestyle=line, alpha=0.55, zorder=1
            )
            _points(ax, [100 + shift], [reference], colour, marker, filled=True)
        drawn = [(row, share) for row in rows if (share := row.cells[column])]
        ratios = [(row, share) for row, share in drawn if row.identity["ratio"] is not None]
        others = [(row, share) for row, share in drawn if row.identity["ratio"] is None]
        taken = {_place(row) for row, _ in ratios}
        places = [_place(row) + shift for row, _ in ratios]
        ax.plot(
            places, [100 * share.value for _, share in ratios], color=colour, linestyle=line, linewidth=1.3
        )
        _points(ax, places, [share for _, share in ratios], colour, marker, filled=True)
        # another rule that costs what a ratio costs stands beside it
        aside = len(columns) * SIDESTEP
        places = [_place(row) + shift + aside * (_place(row) in taken) for row, _ in others]
        _points(ax, places, [share for _, share in others], colour, marker, filled=False)
        if drawn:
            # the series is named at its cheapest network, where the three are furthest apart
            cheapest = min(drawn, key=lambda pair: pair[0].cost or 0)[1]
            labels.append((100 * cheapest.value, _series_name(column), colour))
    _name_series(ax, labels)
    lines = _name_networks(ax, rows, with_dense=dense is not None and dense.images is not None)
    pad = 6 + NAME_HEIGHT * max(2, lines)
    ax.set_title(fill(title, TITLE_WIDTH), loc="left", fontsize=9, fontweight="bold", pad=pad)


def _points(
    ax: Axes, places: list[float], shares: Sequence[Share], colour: str, marker: str, *, filled: bool
) -> None:
    values = [100 * share.value for share in shares]
    intervals = [(100 * low, 100 * high) for low, high in (share.interval for share in shares)]
    points_with_bars(ax, places, values, intervals, colour, marker, filled=filled)


def _place(row: Row) -> float:
    """Nominal BitOPs in percent of the dense network's."""
    return round(100 * (row.cost or 0), 1)


def _frame(ax: Axes, rows: list[Row], columns: list[str]) -> None:
    """Set limits that hold all error bars, and room on the left for the names of the series."""
    intervals = [share.interval for row in rows for column in columns if (share := row.cells[column])]
    low, high = 100 * min(low for low, _ in intervals), 100 * max(high for _, high in intervals)
    pad = max(3.0, 0.06 * (high - low))
    ax.set_ylim(max(-2.0, low - pad), min(102.0, high + pad))
    ax.set_xlim(LEFT, max([100.0, *map(_place, rows)]) + 4)
    ax.set_xticks([0, 20, 40, 60, 80, 100])


def _series_name(column: str) -> str:
    if column in names.WHOLE:
        return names.column_name(column)
    attack = names.column_name(column.removesuffix(STRAIGHT))
    return f"{attack},\n{'straight-through' if column.endswith(STRAIGHT) else 'blocked'}"


def _name_series(ax: Axes, labels: list[tuple[float, str, str]]) -> None:
    """Write the names at the left edge, each as near to its value as the others let it."""
    low, high = ax.get_ylim()
    line = (high - low) / (PANEL_HEIGHT / 0.19)
    centres = _spread(
        [value for value, _, _ in sorted(labels)],
        [line * (1 + text.count("\n")) for _, text, _ in sorted(labels)],
        low,
        high,
    )
    for (_, text, colour), centre in zip(sorted(labels), centres, strict=True):
        ax.text(LEFT + 1, centre, text, color=colour, ha="left", va="center", fontsize=8, linespacing=1.1)


def _spread(wanted: list[float], heights: list[float], low: float, high: float) -> list[float]:
    """Centres for stacked labels (ascending `wanted`), moved as little as needed so that none overlap."""
    centres: list[float] = []
    floor = low
    for value, height in zip(wanted, heights, strict=True):
        centres.append(max(value, floor + height / 2))
        floor = centres[-1] + height / 2
    ceiling = high
    for index in reversed(range(len(centres))):
        centres[index] = min(centres[index], ceiling - heights[index] / 2)
        ceiling = centres[index] - heights[index] / 2
    return centres


def _name_networks(ax: Axes, rows: list[Row], *, with_dense: bool) -> int:
    """Write the rule (ratio, pattern, name) above each place, in the first line with room; how many lines."""
    at: dict[float, list[str]] = {}
    for row in rows:
        rule = names.rule_name(row.identity).split()[-1]
        at.setdefault(_place(row), []).append(rule)
    if with_dense:
        at.setdefault(100.0, []).append("dense")
    ends: list[float] = []
    for place in sorted(at):
        text = " / ".join(at[place])
        half = 1.35 * len(text) / 2 + 0.6
        level = next((line for line, end in enumerate(ends) if place - half > end), len(ends))
        ends[level : level + 1] = [place + half]
        ax.annotate(
            text,
            xy=(place, 1),
            xycoords=ax.get_xaxis_transform(),
            xytext=(0, 3 + NAME_HEIGHT * level),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=7.5,
            color=INK,
        )
        ax.axvline(place, color=MUTED, alpha=0.15, linewidth=0.6, zorder=0)
    ax.annotate(
        "noise",
        xy=(LEFT + 1, 1),
        xycoords=ax.get_xaxis_transform(),
        xytext=(0, 3),
        textcoords="offset points",
        ha="left",
        va="bottom",
        fontsize=7.5,
        color=MUTED,
    )
    return len(ends)
