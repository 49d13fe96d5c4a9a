"""Every figure that is drawn from tracked runs: its name, its title, what it shows, and how it is drawn."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from matplotlib.figure import Figure

from analysis.figures import (
    accuracy_over_ratio,
    cost_of_runs,
    hardware_over_noise,
    layer_quality,
    pareto_fronts,
    pgd_over_radius,
    security_curves,
    timeline,
)
from analysis.figures.drawing import FORMATS, render, write
from analysis.figures.series import NothingToDrawError
from analysis.files import RunFiles, layers
from analysis.timeline import sentences, timelines


@dataclass(frozen=True, kw_only=True)
class Source:
    """What figures are drawn from: the runs of one experiment, of every stage, and their files."""

    runs: pl.DataFrame
    files: RunFiles


@dataclass(frozen=True, kw_only=True)
class FigureKind:
    """One figure: `draw` raises `NothingToDrawError` where the runs have not what it shows.

    `words` are what one sees in it, in sentences.
    """

    name: str
    title: str
    caption: str
    draw: Callable[[Source], Figure]
    words: Callable[[Source], Sequence[str]] = lambda source: ()


FIGURES = (
    FigureKind(
        name="figure3_pgd_over_radius",
        title="PGD over radius and steps (figure 3)",
        caption="Accuracy under PGD of growing radius and number of steps, and the gain over the dense "
        "network beside what the paper prints for ResNet-18. A gain under blocked gradients says nothing of "
        "an attacker who knows the defence: the open points, where there are some, are nearer to that one.",
        draw=lambda source: pgd_over_radius.draw(source.runs),
    ),
    FigureKind(
        name="figure4_accuracy_over_ratio",
        title="Accuracy over the share of noise (figure 4)",
        caption="Clean accuracy, accuracy under PGD-20 and worst case over the injection ratio, for noise in "
        "non-essential, in essential and in randomly chosen neurons.",
        draw=lambda source: accuracy_over_ratio.draw(source.runs),
    ),
    FigureKind(
        name="figure5_hardware_over_noise",
        title="Time and energy on the accelerator (figure 5)",
        caption="Simulated time, energy and efficiencies over the share of noise, relative to the dense "
        "network, with the masks of real images and with random ones of the same share. Masks of real images "
        "are uneven, which random masks hide.",
        draw=lambda source: hardware_over_noise.draw(source.runs),
    ),
    FigureKind(
        name="security_curves",
        title="Security curves",
        caption="Accuracy over the radius of the attack. A larger ball contains the smaller ones, so that "
        "the curve of an attack that does its work can only fall; at 64/255 hardly anything should be left.",
        draw=lambda source: security_curves.draw(source.runs),
    ),
    FigureKind(
        name="pareto_fronts",
        title="Pareto fronts",
        caption="Worst case over all attacks, including adaptive ones, over what a network costs.",
        draw=lambda source: pareto_fronts.draw(source.runs),
    ),
    FigureKind(
        name="layer_quality",
        title="Layer by layer",
        caption="How well each layer's low-precision approximation was distilled, and the share of its "
        "neurons that stays precise.",
        draw=lambda source: layer_quality.draw(layers(source.runs, source.files)),
    ),
    FigureKind(
        name="accelerator_timeline",
        title="The accelerator's timeline",
        caption="What the vector units do, and which part of the machine they wait for, with the masks of "
        "real images. Above, whole networks; below, the layers one after the other, each as wide as its "
        "cycles. A lane is filled as high as the share of the units that it has: all lanes together are full "
        "in every layer. Within a layer its tiles take turns, too fast to be seen here. Units wait for a "
        "channel where the layer has fewer than the core holds, for other units where these have more "
        "essential neurons, and for accumulators where a step has too little to do. The dense network is "
        "tracked as a whole.",
        draw=lambda source: timeline.draw(source.runs, source.files),
        words=lambda source: sentences(timelines(source.runs, source.files)),
    ),
    FigureKind(
        name="cost_of_runs",
        title="What the runs cost",
        caption="Seconds of computing by stage.",
        draw=lambda source: cost_of_runs.draw(source.runs),
    ),
)


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A figure as files by format ("svg", "png", "pdf"), or none and the `reason` why."""

    kind: FigureKind
    files: Mapping[str, bytes]
    reason: str
    words: Sequence[str] = ()


def draw_all(source: Source) -> list[Drawn]:
    """Every figure of `FIGURES`; the same runs give the same bytes."""
    found = []
    for kind in FIGURES:
        files: dict[str, bytes] = {}
        reason, words = "", tuple[str, ...]()
        try:
            figure = kind.draw(source)  # once: its layout is settled, so that no backend changes it
            files = {form: render(figure, form) for form in FORMATS}
            words = tuple(kind.words(source))
        except NothingToDrawError as nothing:
            reason = str(nothing)
        found.append(Drawn(kind=kind, files=files, reason=reason, words=words))
    return found


def save_all(drawn: Sequence[Drawn], folder: Path) -> list[Path]:
    """Write the files of every figure that there is into `folder`, as `drawing.write` does."""
    return [path for one in drawn for path in write(one.files, folder, one.kind.name)]
