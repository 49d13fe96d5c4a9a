"""What the report has beside its table: findings, every further figure, adversarial examples."""

import re
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl
from markupsafe import Markup

from analysis import report
from analysis.figures.catalogue import Drawn, Source
from analysis.findings import FAILS, HOLDS, UNKNOWN, Finding
from analysis.networks import Network, networks

MARKS = {HOLDS: ("up", "\u25b2"), FAILS: ("down", "\u25bc")}
Line = tuple[str, str, tuple[str, str], str]
"""A finding: claim, verdict, (class, mark), why."""
EXAMPLES = "examples.png"
MOST_EXAMPLES = 2
"""Pictures of the dense network and of the network with the most noise."""


@dataclass(frozen=True, kw_only=True)
class FigureSection:
    """A figure with its caption, whose id is `anchor`, and `words` for what one sees."""

    anchor: str
    title: str
    caption: str
    drawing: Markup
    words: tuple[str, ...]
    widths: tuple[int, int]
    """The least and the most CSS pixels that it may be wide, so that its letters stay legible."""


@dataclass(frozen=True, kw_only=True)
class Sections:
    """`told` and `untold` claims, `not_drawn` as (title, reason), `examples` as (network, data URL)."""

    told: tuple[Line, ...]
    untold: tuple[Line, ...]
    figures: tuple[FigureSection, ...]
    not_drawn: tuple[tuple[str, str], ...]
    examples: tuple[tuple[str, str], ...]


def sections(source: Source, drawn: Sequence[Drawn], findings: Sequence[Finding]) -> Sections:
    """Everything that the report shows after its table; the same runs give the same text."""
    figures, not_drawn = [], []
    for one in drawn:
        if not one.files:
            not_drawn.append((one.kind.title, one.reason))
            continue
        anchor = f"{one.kind.name.replace('_', '-')}-caption"
        picture = report.inline_svg(one.files["svg"].decode(), anchor)
        figures.append(
            FigureSection(
                anchor=anchor,
                title=one.kind.title,
                caption=one.kind.caption,
                drawing=picture,
                words=tuple(one.words),
                widths=_widths(picture),
            )
        )
    return Sections(
        told=tuple(_line(one) for one in findings if one.verdict != UNKNOWN),
        untold=tuple(_line(one) for one in findings if one.verdict == UNKNOWN),
        figures=tuple(figures),
        not_drawn=tuple(not_drawn),
        examples=_examples(source),
    )


def _widths(picture: str) -> tuple[int, int]:
    """From the size in points of matplotlib's drawing."""
    found = re.search(r'viewBox="0 0 ([0-9.]+) ', picture)
    assert found is not None, "matplotlib's SVG has a viewBox"
    natural = 96 / 72 * float(found[1])
    return round(0.85 * natural), round(1.2 * natural)


def _line(one: Finding) -> Line:
    return one.claim.title, one.verdict, MARKS.get(one.verdict, ("missing", "")), one.why


def _examples(source: Source) -> tuple[tuple[str, str], ...]:
    """(label, data URL) of the adversarial examples that runs have kept."""
    found = []
    for network in _shown(source.runs):
        content = source.files.content(network.runs[0]["run_id"], EXAMPLES)
        if content:
            url = f"data:image/png;base64,{b64encode(content).decode()}"
            found.append((f"{network.subject}, {network.label}", url))
    return tuple(found)


def _shown(runs: pl.DataFrame) -> list[Network]:
    every = networks(runs)
    dense = [one for one in every if one.is_dense]
    noisy = sorted((one for one in every if one.noisy_share), key=lambda one: one.noisy_share or 0)
    return [*dense[:1], *noisy[-1:]][:MOST_EXAMPLES]
