"""Security curves: accuracy over the radius of an attack, which a sound attack can only lower."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import polars as pl
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from analysis.comparison import Difference, difference
from analysis.figures.drawing import INK, SETTINGS, quiet_grid
from analysis.figures.series import (
    NothingToDrawError,
    beside,
    counted,
    curve,
    foot,
    foremost,
    looks,
    new_figure,
    panel_title,
    shared_legend,
)
from analysis.networks import CLEAN, Measured, Network, networks

LARGEST = 64
"""The largest radius that is drawn, in 1/255; what lies beyond is a probe."""
FEWEST_RADII = 3
SIDESTEP = 0.04
WIDTH, HEIGHT = 3.3, 3.0  # inches, of a panel


@dataclass(frozen=True, kw_only=True)
class SecurityCurve:
    """Accuracy of `network` under attacks of one family over their radius; radius 0 is clean accuracy."""

    network: Network
    family: str
    points: tuple[tuple[float, Measured], ...]

    @property
    def violations(self) -> tuple[tuple[float, float, Difference], ...]:
        """(radius, larger radius, rise) wherever more room leaves more images right than less room does.

        The larger ball contains the smaller one: a rise means that the attack is not at its best there.
        """
        pairs = zip(self.points, self.points[1:], strict=False)
        return tuple(
            (near, far, difference(after, before))
            for (near, before), (far, after) in pairs
            if after.value > before.value
        )


def security_curves(runs: pl.DataFrame) -> list[SecurityCurve]:
    """Every curve of at least `FEWEST_RADII` radii up to `LARGEST`, by network, then by family.

    A family is the kind, the steps and the gradients of an attack; attacks on survivors only are left out.
    """
    found = []
    for network in networks(runs):
        families: dict[str, dict[float, Measured]] = {}
        for name, attack in network.attacks.items():
            accuracy = network.accuracy(name)
            if attack.eps is None or attack.eps > LARGEST or accuracy is None or name.endswith("_probe"):
                continue
            # of two attacks of one family and radius the lower accuracy says what it can do
            known = families.setdefault(attack.family, {}).get(attack.eps)
            if known is None or accuracy.value < known.value:
                families[attack.family][attack.eps] = accuracy
        clean = network.accuracy(CLEAN)
        for family, points in families.items():
            if len(points) >= FEWEST_RADII and clean:
                whole = ((0.0, clean), *sorted(points.items()))
                found.append(SecurityCurve(network=network, family=family, points=whole))
    return found


def draw(runs: pl.DataFrame) -> Figure:
    """The figure of the runs of one experiment (rows of `analysis.load_runs`).

    A row of panels for each data set and architecture, a panel for each family of attacks; a curve for each
    network with 95% intervals. Rings are points that lie above the one of the next smaller radius.
    Raises `NothingToDrawError` where there is no curve.
    """
    found = security_curves(runs)
    if not found:
        raise NothingToDrawError(
            f"no attack was run at {FEWEST_RADII} radii or more (grid adaptive or small-adaptive)"
        )
    subjects = list(dict.fromkeys(one.network.subject for one in found))
    shown: list[Network] = []
    notes: list[str] = []
    for subject in subjects:
        own = {id(one.network): one.network for one in found if one.network.subject == subject}
        some, note = foremost(list(own.values()))
        shown, notes = [*shown, *some], [*notes, note]
    found = [one for one in found if one.network in shown]
    families = list(dict.fromkeys(one.family for one in found))
    series = looks([one.network.label for one in found])
    with rc_context(SETTINGS):
        figure = new_figure(WIDTH * len(families), HEIGHT * len(subjects) + 0.9)
        axes = figure.subplots(len(subjects), len(families), squeeze=False, sharex=True, sharey=True)
        for line, subject in zip(axes, subjects, strict=True):
            for ax, family in zip(line, families, strict=True):
                curves = [one for one in found if (one.network.subject, one.family) == (subject, family)]
                quiet_grid(ax)
                for one in curves:
                    aside = beside(list(series).index(one.network.label), len(series), SIDESTEP)
                    nought = 2 * aside  # a factor does not move it
                    points = [(at * (1 + aside) or nought, number) for at, number in one.points]
                    curve(ax, points, series[one.network.label], one.network.label)
                _rings(ax, curves)
                panel_title(ax, f"{subject}\n{family}" if ax is line[0] else f"\n{family}")
            line[0].set_ylabel("Accuracy in %")
        ticks = sorted({radius for one in found for radius, _ in one.points})
        top = 10 * ceil(10 * max(number.interval[1] for one in found for _, number in one.points))  # percent
        for ax in axes[-1]:
            ax.set_xlabel("radius, 1/255")
        axes[0][0].set_xscale("symlog", base=2, linthresh=min(tick for tick in ticks if tick > 0))
        for ax in axes.flat:
            ax.xaxis.set_major_locator(FixedLocator(ticks))
            ax.xaxis.set_minor_locator(NullLocator())
            ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            ax.set_xlim(-0.3 * ticks[1], ticks[-1] * 1.3)
            ax.set_ylim(-0.02 * top, 1.02 * top)
        shared_legend(figure, columns=3 if len(families) > 1 else 2)
        every = [number for one in found for _, number in one.points]
        rest = counted([one.images for one in every], [one.seeds for one in every])
        read = "rings: above the smaller radius, so the attack falls short; bars: 95% intervals"
        foot(figure, f"{read};\n{rest}{max(notes)}")
    return figure


def _rings(ax: Axes, own: Sequence[SecurityCurve]) -> None:
    for one in own:
        values = dict(one.points)
        for _, far, _ in one.violations:
            ax.plot(
                [far], [100 * values[far].value], marker="o", markersize=11, markerfacecolor="none",
                markeredgecolor=INK, markeredgewidth=0.9, linestyle="",
            )  # fmt: skip
