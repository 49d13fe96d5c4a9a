"""Pareto fronts: adaptive worst-case accuracy over what a network costs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap

import polars as pl
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from analysis import names
from analysis.figures.drawing import MUTED, SERIES_STYLES, SETTINGS, points_with_bars, quiet_grid
from analysis.figures.series import NothingToDrawError, counted, foot, new_figure, panel_title, shared_legend
from analysis.networks import NETWORK, Measured, Network, networks
from analysis.tables.robustness import WORST_CASE
from pipeline.pareto import Score, front

COSTS = {
    "bitops": "BitOPs",
    "joules_over_dense": "energy on the accelerator",
    "energy_delay_joule_seconds_over_dense": "energy x time on the accelerator",
}
# A pattern runs on the core that is made for it, everything else on the one for any mask.
STRUCTURED, UNSTRUCTURED = "structured", "unstructured"
MASKS = "measured"
FEWEST = 2
DIGITS = 3
"""Of costs over dense: what is apart by less than a tenth of a percent of it costs the same."""
WIDTH, HEIGHT, NARROWEST = 3.2, 3.0, 4.8  # inches, of a panel; of the figure


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A network with its adaptive worst case and one cost relative to the dense network's."""

    network: Network
    accuracy: Measured
    cost: float
    on_front: bool


def draw(runs: pl.DataFrame) -> Figure:
    """The figure of the runs of one experiment (rows of `analysis.load_runs`, every stage).

    A row of panels for each data set and architecture, a panel for each cost: worst-case accuracy in percent,
    including adaptive attacks, over the cost in percent of the dense network's. Filled circles that are
    joined by steps are on the front, grey crosses are dominated. Raises `NothingToDrawError` where no two
    networks have both numbers.
    """
    subjects = _subjects(runs)
    if not subjects:
        raise NothingToDrawError(
            "no two networks have a cost and a worst case that includes adaptive attacks (grid adaptive, "
            "table1 or small-table1)"
        )
    costs = [cost for cost in COSTS if any(cost in panels for panels in subjects.values())]
    with rc_context(SETTINGS):
        every = [one for panels in subjects.values() for own in panels.values() for one in own]
        best = dict.fromkeys(one.network.label for one in every if one.on_front)
        numbers = {label: place for place, label in enumerate(best, 1)}
        width = max(NARROWEST, WIDTH * len(costs))
        entries = (_unbroken(f"{place}: {label}") for label, place in numbers.items())
        key = wrap("; ".join(entries), int(width * 20))
        figure = new_figure(width, HEIGHT * len(subjects) + 0.6 + 0.13 * len(key))
        axes = figure.subplots(len(subjects), len(costs), squeeze=False, sharey="row")
        for line, (subject, panels) in zip(axes, subjects.items(), strict=True):
            for ax, cost in zip(line, costs, strict=True):
                panel_title(ax, subject if ax is line[0] else "")
                _panel(ax, panels.get(cost, []), numbers)
                ax.set_xlabel(f"{COSTS[cost]}, % of dense")
            line[0].set_ylabel("Adaptive worst case in %")
        shared_legend(figure, columns=2)
        rest = counted([one.accuracy.images for one in every], [one.accuracy.seeds for one in every])
        read = f"the front is that of the measured means; bars: 95% intervals; {rest}"
        foot(figure, "\n".join([*key, *wrap(read, int(width * 20))]))
    return figure


def candidates(every: Sequence[Network], cost_of: Callable[[Network], float | None]) -> list[Candidate]:
    """The networks with a cost and an adaptive worst case, cheapest first.

    On the front are those that no other one dominates: at least as accurate and as cheap, and better in one.
    """
    found = [
        (network, accuracy, round(cost, DIGITS))
        for network in every
        if network.has_adaptive_worst_case
        and (accuracy := network.accuracy(WORST_CASE))
        and (cost := cost_of(network)) is not None
    ]
    found.sort(key=lambda one: (one[2], -one[1].value))
    scores = [Score(accuracy=accuracy.value, cost=cost) for _, accuracy, cost in found]
    best = {scores[place] for place in front(scores)}  # of equal ones `front` names one
    return [
        Candidate(network=network, accuracy=accuracy, cost=cost, on_front=score in best)
        for (network, accuracy, cost), score in zip(found, scores, strict=True)
    ]


def costs_of(runs: pl.DataFrame) -> Mapping[str, Callable[[Network], float | None]]:
    """By name in `COSTS`: what a network costs relative to the dense one, None where nobody knows.

    Energy and time come from the simulation of the same fine-tuned network with the masks of real images.
    """
    simulated = {_noise_of(network): network for network in networks(runs, stage="simulate")}

    def simulation(metric: str) -> Callable[[Network], float | None]:
        def cost(network: Network) -> float | None:
            if network.is_dense:
                return 1.0 if network.identity["trained_by"] in names.PLAIN and simulated else None
            run = simulated.get(_noise_of(network))
            if run is None or not network.is_plain:
                return None
            core = STRUCTURED if network.identity["pattern"] else UNSTRUCTURED
            number = run.metric(f"{metric}/{core}/{MASKS}")
            return number.value if number else None

        return cost

    return {name: _bitops if name == "bitops" else simulation(name) for name in COSTS}


def _bitops(network: Network) -> float | None:
    return network.cost


def _noise_of(network: Network) -> tuple[object, ...]:
    """The identity without what only an attack has: how many passes make a prediction."""
    return tuple(network.identity[name] for name in NETWORK if name != "ensemble")


def _subjects(runs: pl.DataFrame) -> dict[str, dict[str, list[Candidate]]]:
    groups: dict[str, list[Network]] = {}
    for network in networks(runs):
        groups.setdefault(network.subject, []).append(network)
    costs = costs_of(runs)
    found = {}
    for subject, own in groups.items():
        panels = {name: candidates(own, cost) for name, cost in costs.items()}
        panels = {name: panel for name, panel in panels.items() if len(panel) >= FEWEST}
        if panels:
            found[subject] = panels
    return found


def _unbroken(text: str) -> str:
    """With spaces at which `wrap` breaks no line."""
    return text.replace(" ", "\u00a0")


def _panel(ax: Axes, own: Sequence[Candidate], numbers: Mapping[str, int]) -> None:
    quiet_grid(ax)
    best = [one for one in own if one.on_front]
    others = [one for one in own if not one.on_front]
    colour, marker, _ = SERIES_STYLES[0]
    for group, of, shape in ((others, MUTED, "X"), (best, colour, marker)):
        points_with_bars(
            ax,
            [100 * one.cost for one in group],
            [100 * one.accuracy.value for one in group],
            [(100 * one.accuracy.interval[0], 100 * one.accuracy.interval[1]) for one in group],
            of,
            shape,
            filled=group is best,
        )
    if best:
        ends = [100 * one.cost for one in best]
        heights = [100 * one.accuracy.value for one in best]
        right = max(100 * one.cost for one in own)
        ax.step([*ends, right], [*heights, heights[-1]], where="post", color=colour, linewidth=1.1, zorder=1)
    ax.plot([], [], color=colour, marker=marker, linewidth=1.1, label="on the front")
    ax.plot([], [], color=MUTED, marker="X", markerfacecolor="white", linestyle="", label="dominated")
    equal: dict[tuple[float, float], list[int]] = {}
    for one in best:
        equal.setdefault((100 * one.cost, 100 * one.accuracy.value), []).append(numbers[one.network.label])
    for point, places in equal.items():
        # no network is cheaper and more accurate than one on the front: to the upper left there is room
        ax.annotate(
            ",".join(map(str, places)), point, xytext=(-3.5, 3),
            textcoords="offset points", ha="right", fontsize=7.5, fontweight="bold", zorder=5,
            path_effects=[withStroke(linewidth=1.5, foreground="white")],
        )  # fmt: skip
    ax.set_xlim(left=0)
    ax.margins(x=0.15, y=0.12)
