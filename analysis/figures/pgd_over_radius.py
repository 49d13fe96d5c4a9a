"""Figure 3: accuracy under PGD over its radius and its steps, and the gain beside what the paper prints."""

from collections.abc import Mapping, Sequence

import polars as pl
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from analysis.figures.drawing import MUTED, SETTINGS, quiet_grid
from analysis.figures.printed import FIGURE3_GAINS, paper_data_set
from analysis.figures.series import (
    Look,
    NothingToDrawError,
    beside,
    counted,
    curve,
    foot,
    foremost,
    looks,
    new_figure,
    panel_title,
    printed_points,
    shared_legend,
)
from analysis.networks import Attack, Measured, Network, change, networks, teacher_of

WIDTH, HEIGHT = 2.5, 2.6  # inches, of a panel
FEWEST = 2
SIDESTEP = 0.03


def draw(runs: pl.DataFrame) -> Figure:
    """The figure of the runs of one experiment (rows of `analysis.load_runs`).

    A row of panels for each data set and architecture. One panel for each radius: accuracy in percent over
    the steps of PGD, blocked gradients filled and joined, straight-through ones open. The last panel has the
    gain over the dense network in percentage points, under PGD with blocked gradients of the most steps, over
    the radius; grey crosses are the gains that the paper prints for 90% and 99% noise.
    Raises `NothingToDrawError` unless a network was under PGD of two radii and two numbers of steps.
    """
    subjects = grids(runs, fewest_steps=FEWEST)
    if not subjects:
        raise NothingToDrawError(
            "no network was under PGD of several radii and numbers of steps (grid figure3 or small-figure3)"
        )
    radii = sorted({radius for own in subjects.values() for one in own for radius, _, _ in pgd_grid(one)})
    notes = []
    for subject, own in subjects.items():
        subjects[subject], note = foremost(own)
        notes.append(note)
    with rc_context(SETTINGS):
        figure = new_figure(WIDTH * (len(radii) + 1), HEIGHT * len(subjects) + 0.8)
        axes = figure.subplots(len(subjects), len(radii) + 1, squeeze=False)
        for line, (subject, own) in zip(axes, subjects.items(), strict=True):
            series = looks([network.label for network in own])
            for ax, radius in zip(line, radii, strict=False):
                _panel(ax, own, radius, series)
                panel_title(ax, f"{subject}\nradius {radius:g}/255")
                if ax is not line[0]:
                    ax.sharey(line[0])
            line[0].set_ylabel("Accuracy in %")
            _gains(line[-1], own, series)
        shared_legend(figure)
        found = [one.accuracy(name) for own in subjects.values() for one in own for name in one.attacks]
        rest = counted([one.images for one in found if one], [one.seeds for one in found if one])
        foot(
            figure,
            "filled: blocked gradients; open: straight-through; crosses: gains the paper prints for "
            f"ResNet-18;\nbars: 95% intervals; {rest}{max(notes)}",
        )
    return figure


def grids(runs: pl.DataFrame, *, fewest_steps: int = 1) -> dict[str, list[Network]]:
    """By architecture and data: the networks that were under PGD of several radii.

    With at least `fewest_steps` different numbers of steps.
    """
    found: dict[str, list[Network]] = {}
    for network in networks(runs):
        grid = [(radius, steps) for radius, steps, gradient in pgd_grid(network) if gradient == "blocked"]
        radii, steps = ({place[axis] for place in grid} for axis in (0, 1))
        if len(radii) >= FEWEST and len(steps) >= fewest_steps:
            found.setdefault(network.subject, []).append(network)
    return found


def pgd_grid(network: Network) -> dict[tuple[float, int, str], Attack]:
    """The PGD attacks of a network by radius (in 1/255), steps and gradient."""
    return {
        (attack.eps, attack.steps, attack.gradient): attack
        for attack in network.attacks.values()
        if attack.kind == "pgd" and attack.eps and attack.steps and not attack.name.endswith("_probe")
    }


def gain(network: Network, among: Sequence[Network], radius: float) -> tuple[Measured, Measured] | None:
    """The accuracy of `network` and of its dense teacher under the longest blocked PGD of `radius`/255.

    None unless both were measured under the same one.
    """
    dense = teacher_of(network, among)
    column = gain_column(network, dense, radius)
    if dense is None or column is None:
        return None
    now, before = network.accuracy(column), dense.accuracy(column)
    return (now, before) if now and before else None


def gain_column(network: Network, dense: Network | None, radius: float) -> str | None:
    """The longest blocked PGD of `radius`/255 that both were measured under; None if there is none."""
    if dense is None:
        return None
    own, other = pgd_grid(network), pgd_grid(dense)
    common = [
        (steps, attack.name)
        for (at, steps, gradient), attack in own.items()
        if at == radius and gradient == "blocked" and other.get((at, steps, gradient)) == attack
    ]
    return max(common)[1] if common else None


def _panel(ax: Axes, own: Sequence[Network], radius: float, series: Mapping[str, Look]) -> None:
    quiet_grid(ax)
    ticks: set[int] = set()
    for place, network in enumerate(own):
        aside = 1 + beside(place, len(own), SIDESTEP)
        for gradient, filled in (("blocked", True), ("straight_through", False)):
            points = [
                (steps * aside, accuracy)
                for (at, steps, of), attack in sorted(pgd_grid(network).items())
                if at == radius and of == gradient and (accuracy := network.accuracy(attack.name))
            ]
            style = series[network.label]
            chosen = Look(style.colour, style.marker, style.line if filled else "", filled)
            label = network.label if filled else f"{network.label}, straight-through"
            curve(ax, points, chosen, label, joined=filled)
            ticks |= {steps for at, steps, _ in pgd_grid(network) if at == radius}
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(FixedLocator(sorted(ticks)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.set_xlabel("steps of PGD")


def _gains(ax: Axes, own: Sequence[Network], series: Mapping[str, Look]) -> None:
    quiet_grid(ax)
    panel_title(ax, "gain over the dense network\nmost steps, blocked")
    ax.axhline(0, color=MUTED, linewidth=0.7)
    for place, network in enumerate(own):
        if network.is_dense:
            continue
        aside = 6 * beside(place, len(own), SIDESTEP)
        radii = sorted({radius for radius, _, _ in pgd_grid(network)})
        pairs = [(radius, pair) for radius in radii if (pair := gain(network, own, radius))]
        points = [(radius + aside, change(*pair)) for radius, pair in pairs]
        curve(ax, points, series[network.label], network.label)
    data = paper_data_set(own[0].identity["dataset"])
    printed = [(eps, 100 * value) for (of, _, eps), value in FIGURE3_GAINS.items() if of == data]
    printed_points(ax, printed, "gains printed in the paper (90% and 99%)")
    for (of, ratio, eps), value in FIGURE3_GAINS.items():
        if of == data:
            ax.annotate(
                f"{100 * ratio:g}%", (eps, 100 * value), xytext=(5, -2.5), textcoords="offset points",
                fontsize=6.5, color=MUTED,
            )  # fmt: skip
    ax.set_ylabel("percentage points")
    ax.set_xlabel("radius, 1/255")
    ax.margins(x=0.12)
