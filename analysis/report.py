"""The report: one HTML file that needs nothing else. Words first, then numbers, then their origin."""

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import polars as pl
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from analysis import missing, names, sparsity
from analysis.against_dense import AgainstDense
from analysis.figures import accuracy_over_bitops, robustness_over_sparsity
from analysis.figures.drawing import FURTHER_STYLES, INK, MUTED, SERIES_STYLES
from analysis.figures.drawing import render as render_figure
from analysis.links import LOCAL_UI, Link
from analysis.notes import attack_params, computed_on
from analysis.protocol import MINIMAL_NORM, in_pixels, survivors_of
from analysis.runs import FINISHED, Parent
from analysis.summary import attack_pair, summarise
from analysis.tables import adaptive, masking
from analysis.tables.robustness import WORST_CASE, RobustnessTable, Row
from analysis.tables.writing import Cell, caption, cells, headings

TEMPLATES = Path(__file__).parent / "templates"
PAPER = (
    "Zhenyu Liu, Garrett Gagnon, Swagath Venkataramani, Liu Liu: Enhance DNN Adversarial Robustness and "
    "Efficiency via Injecting Noise to Non-Essential Neurons, arXiv:2402.04325"
)
# The figure's colours become the page's, which has a light and a dark set of them.
PAGE_COLOURS = {
    "#ffffff": "var(--paper)",
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    **{
        colour.lower(): f"var(--series-{place})"
        for place, (colour, _, _) in enumerate((*SERIES_STYLES, *FURTHER_STYLES), 1)
    },
}
FIELDS = (
    "kind",
    "eps",
    "step_size",
    "steps",
    "decay",
    "random_start",
    "c",
    "confidence",
    "learning_rate",
    "overshoot",
    "queries",
    "gradient",
    "eot_samples",
    "survivors_of",
    "in_worst_case",
)
PIXELS = ("eps", "step_size")
MOST_SHOWN = 200
"""Rows of a table of single networks or runs: a page with thousands of them opens on no phone."""


def render(
    table: RobustnessTable,
    *,
    parent: Parent,
    attack_runs: pl.DataFrame,
    all_runs: pl.DataFrame,
    flags: Sequence[str],
    command: str,
    sections: Any = None,
    extra: Sequence[Markup] = (),
    link: Link | None = None,
    drawn: Mapping[str, Figure | None] | None = None,
    against: AgainstDense | None = None,
) -> str:
    """The report as HTML text; the same runs give the same text.

    `attack_runs` are the runs that `table` was built from, `all_runs` those of every stage, `flags` what
    `analysis.notes.flags` says, `command` what writes the page again, `sections` what follows the table
    (`analysis.sections`), `extra` further sections, `link` the address of MLflow's page of a run,
    `drawn` the figures of the table (`table_figures`) where they have been drawn before, `against` how the
    networks differ from their dense teachers (by default as if each had seen images of its own).
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["code"] = _code
    drawn = table_figures(table) if drawn is None else drawn
    against = against or AgainstDense(table)
    gaps, stages = missing.listed(table, parent.remedy), _stages(all_runs, link)
    return environment.get_template("report.html.j2").render(
        title=title(table),
        facts=_facts(table, parent),
        summary=summarise(table, against),
        flags=flags,
        headings=headings(table),
        caption=caption(table),
        rows=_rows(table, table.main_columns, cells, against),
        adaptive=_adaptive(table, against),
        masking=_masking(table),
        left_out=max(0, len(table.rows) - MOST_SHOWN),
        missing=gaps[:MOST_SHOWN],
        missing_left_out=max(0, len(gaps) - MOST_SHOWN),
        advice=missing.advice(table, parent.remedy),
        command=command,
        sections=sections,
        drawn_columns=_drawn_columns(table),
        figure=_inlined(drawn[accuracy_over_bitops.NAME], "figure-caption"),
        sparsity=_sparsity(table, drawn[robustness_over_sparsity.NAME]),
        protocol=_protocol(table),
        zero_gradients=_zero_gradients(table, attack_runs),
        teachers=_teachers(table),
        provenance=[_provenance(row, link) for row in table.rows[:MOST_SHOWN]],
        stages=stages[:MOST_SHOWN],
        stages_left_out=max(0, len(stages) - MOST_SHOWN),
        parent=parent,
        page=link(parent.run_id) if link else "",
        local_ui=LOCAL_UI,
        paper=PAPER,
        extra=extra,
    )


def table_figures(table: RobustnessTable) -> dict[str, Figure | None]:
    """The figures that show `table`, by the names of their files; None where it has not what one shows."""
    return {kind.NAME: kind.draw(table) for kind in (accuracy_over_bitops, robustness_over_sparsity)}


def _drawn_columns(table: RobustnessTable) -> str:
    """What the figure of accuracy over BitOPs shows, in words."""
    blocked, knowing = attack_pair(table)
    words = ["on clean images"]
    if blocked:
        words.append("under the longest PGD with blocked gradients")
    if knowing:
        adaptive = "in the worst case, which includes the adaptive attacks"
        words.append(
            adaptive if knowing == WORST_CASE else "under the longest PGD with straight-through gradients"
        )
    return names.listed(words)


def title(table: RobustnessTable) -> str:
    """The heading of the report and of the Markdown table: "Noise injection: small_resnet on digits"."""
    known = [row.identity for row in table.rows if row.identity["model"]]
    networks = sorted({f"{identity['model']} on {identity['dataset']}" for identity in known})
    noisy = any(not row.is_dense for row in table.rows)
    subject = "Sparse networks" if not noisy and sparsity.studies(table) else "Noise injection"
    return f"{subject}: {', '.join(networks)}" if networks else "Simulated networks"


def _inlined(drawn: Figure | None, caption_id: str) -> Markup | None:
    return None if drawn is None else inline_svg(render_figure(drawn, "svg").decode(), caption_id)


def inline_svg(text: str, caption_id: str = "figure-caption") -> Markup:
    """matplotlib's SVG file as an element of the page, in the page's colours and as wide as it allows.

    `caption_id` is the element that says what it shows.
    """
    text = text[text.index("<svg") :]
    opening, rest = text.split(">", 1)
    opening = re.sub(r' (?:width|height|version)="[^"]*"', "", opening)
    text = f'{opening} role="img" aria-labelledby="{caption_id}">{rest}'
    for colour, variable in PAGE_COLOURS.items():
        text = text.replace(f": {colour}", f": {variable}")
    return Markup(text)


def _code(text: str) -> Markup:
    """Plain text with `commands` between backticks as HTML."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text))))


def _facts(table: RobustnessTable, parent: Parent) -> list[str]:
    """One line under the heading: what the numbers rest on."""
    counts, rows = table.images(), [row for row in table.rows if row.tracked["run_id"]]
    images = " or ".join(f"{count:,}".replace(",", "\u202f") for count in counts)
    commits = sorted({str(row.tracked["git_commit"] or "unknown")[:10] for row in rows})
    seeds = sorted({str(row.identity["seed"]) for row in rows})
    computed = {computed_on(row.tracked["device"], row.tracked["threads"]) for row in rows} - {""}
    return [
        f"{images} test images",
        f"seed {' and '.join(seeds)}",
        *([f"on {' and '.join(sorted(computed))}"] if computed else []),
        f"commit {' and '.join(commits)}",
        f"MLflow experiment {parent.experiment}",
    ]


def _rows(
    table: RobustnessTable,
    accuracies: Sequence[str],
    cells_of: Callable[[RobustnessTable, Row], list[Cell]],
    against: AgainstDense,
) -> list[dict[str, Any]]:
    """Labels and cells; the sign of a cell says that it is clearly above (1) or below (-1) dense.

    The first cells of a row are those of the columns `accuracies`.
    """
    found = []
    for row in table.rows[:MOST_SHOWN]:
        entries = []
        for column, cell in zip_longest(accuracies, cells_of(table, row)):
            change = against(row, column) if column and not row.is_dense else None
            hover = _behind(row, column) if column and not cell.is_gap else ""
            entries.append({"cell": cell, "sign": change.sign if change else 0, "hover": hover})
        found.append({"label": row.label, "dense": row.is_dense, "entries": entries})
    return found


def _behind(row: Row, column: str) -> str:
    """What is behind an accuracy: settings of the attack, images, seed, commit and run, in a line."""
    own = attack_params(row).get(column, {})
    words = [f"{field.replace('_', ' ')} {_readable(field, own[field])}" for field in FIELDS if field in own]
    commit = (row.tracked["git_commit"] or "unknown")[:10] + (
        " + changes" if row.tracked["git_dirty"] else ""
    )
    words += [f"{row.images} images", f"seed {row.identity['seed']}", f"commit {commit}"]
    return "; ".join([*words, f"run {row.tracked['run_id']}"])


def _adaptive(table: RobustnessTable, against: AgainstDense) -> dict[str, Any] | None:
    """The table of the adaptive attacks; None if there are none."""
    columns = adaptive.columns(table)
    if not columns:
        return None
    return {
        "title": adaptive.TITLE,
        "caption": adaptive.caption(table),
        "headings": adaptive.headings(table),
        "rows": _rows(table, columns, adaptive.cells, against),
    }


def _masking(table: RobustnessTable) -> dict[str, Any] | None:
    """The verdicts on masked gradients; None if there are none."""
    if not table.has_masking:
        return None
    return {
        "title": masking.TITLE,
        "introduction": masking.INTRODUCTION,
        "caption": masking.caption(table),
        "headings": masking.headings(table),
        "rows": [(row.label, row.is_dense, masking.cells(table, row)) for row in table.rows[:MOST_SHOWN]],
    }


def _sparsity(table: RobustnessTable, figure: Figure | None) -> dict[str, Any] | None:
    """Robustness over sparsity, as a figure and in words; None if there are no sparse networks to compare."""
    drawn = _inlined(figure, "sparsity-caption")
    if drawn is None:
        return None
    found = sparsity.studies(table)
    return {
        "figure": drawn,
        "fine_tuned": all(study.fine_tuned for study in found),
        "studies": [
            (study.title, sparsity.headline(table, study), sparsity.sentences(table, study))
            for study in found
        ],
    }


def _protocol(table: RobustnessTable) -> dict[str, Any]:
    """The settings of every attack, as tracked; an entry that differs between rows lists what they have."""
    protocols = [attack_params(row) for row in table.rows if row.tracked["run_id"]]
    attacks = names.attack_order({name for protocol in protocols for name in protocol})
    present = {field for protocol in protocols for settings in protocol.values() for field in settings}
    fields = [field for field in FIELDS if field in present] + sorted(present - set(FIELDS))
    lines = []
    for attack in attacks:
        settings = [protocol[attack] for protocol in protocols if attack in protocol]
        values = [
            " / ".join(dict.fromkeys(_readable(field, one[field]) for one in settings if field in one))
            for field in fields
        ]
        lines.append((names.column_name(attack), values))
    return {
        "fields": [field.replace("_", " ") for field in fields],
        "attacks": lines,
        "scope": _scope(table),
    }


def _scope(table: RobustnessTable) -> str:
    """What the attacks may change and what they may ask, in sentences."""
    kinds = {table.kind(column): names.column_name(column) for column in table.columns}
    minimal = [name for kind, name in kinds.items() if kind in MINIMAL_NORM]
    white_box = "White-box attacks" if not kinds.keys() & {"square", "transfer"} else "Attacks"
    words = [f"{white_box} in the L-infinity ball, on [0, 1] pixels."]
    if minimal:
        words.append(f"Attacks that look for the smallest change in l2 instead: {names.listed(minimal)}.")
    if "square" in kinds:
        words.append(f"{kinds['square']} asks for outputs only.")
    if "transfer" in kinds:
        words.append(f"{kinds['transfer']} attacks the dense teacher and tries the result on the network.")
    return " ".join(words)


def _readable(field: str, value: str) -> str:
    """A setting for readers: 0.0313725 as 8/255, attacks by their headings, underscores as spaces."""
    if field in PIXELS:
        return in_pixels(value)
    if field == "survivors_of":
        return ", ".join(map(names.column_name, survivors_of({field: value})))
    return value.replace("_", " ")


def _zero_gradients(table: RobustnessTable, runs: pl.DataFrame) -> dict[str, Any] | None:
    """The share of input gradients that were exactly zero, by network and attack; None if not counted."""
    shown = (*table.main_columns, *table.adaptive_columns)
    attacks = [name for name in shown if f"zero_gradients/{name}" in runs.columns]
    if not attacks:
        return None
    by_id = {run["run_id"]: run for run in runs.iter_rows(named=True)}
    lines = []
    for row in table.rows[:MOST_SHOWN]:
        run = by_id.get(row.tracked["run_id"])
        if run is not None:
            lines.append((row.label, [_share(run, attack) for attack in attacks]))
    return {"attacks": [names.column_name(attack) for attack in attacks], "rows": lines}


def _share(run: Mapping[str, Any], attack: str) -> str:
    zero, asked = run.get(f"zero_gradients/{attack}"), run.get(f"backwards/{attack}")
    return f"{names.percent(zero / asked)}%" if zero is not None and asked else ""


def _teachers(table: RobustnessTable) -> list[str]:
    """How the dense teachers of the rows were trained, as far as that is recorded."""
    found = {
        f"{row.identity['model']} on {row.identity['dataset']}, seed {row.identity['seed']}: trained by "
        f"{row.trained_by_title}, number of epochs: {row.identity['pretrain_epochs']}"
        for row in table.rows
        if row.trained_by_title and row.identity["pretrain_epochs"]
    }
    return sorted(found)


def _provenance(row: Row, link: Link | None) -> dict[str, Any]:
    tracked = row.tracked
    return {
        "label": row.label,
        "run": tracked["run_id"],
        "page": link(tracked["run_id"]) if link and tracked["run_id"] else "",
        "key": tracked["key"],
        "commit": tracked["git_commit"],
        "dirty": tracked["git_dirty"],
        "seed": row.identity["seed"],
        "data": tracked["data_fingerprint"],
        "images": row.images,
        "device": computed_on(tracked["device"], tracked["threads"]),
        "seconds": names.duration(tracked["seconds"]),
        "taken": tracked["seconds"] or "",
    }


def _stages(runs: pl.DataFrame, link: Link | None) -> list[dict[str, Any]]:
    """The stages before the attacks."""
    order = ("prepare", "pretrain", "defend", "distill", "finetune")
    found = []
    for run in runs.filter(pl.col("stage").is_in(order)).iter_rows(named=True):
        subject = names.variant_name(run) if run["stage"] == "finetune" and run["defence"] else ""
        if run["stage"] in ("pretrain", "defend", "distill") and run["trained_by"] not in names.PLAIN:
            subject = run["trained_by_title"] or run["trained_by"]
        done = run["status"] == FINISHED
        found.append(
            {
                "place": (order.index(run["stage"]), names.variant_order(run)),
                "stage": f"{run['stage']}: {subject}" if subject else run["stage"],
                "page": link(run["run_id"]) if link else "",
                "key": run["key"],
                "commit": run["git_commit"],
                "dirty": run["git_dirty"],
                "device": computed_on(run["device"], run["threads"]),
                "seconds": names.duration(run["seconds"]) if done else run["status"].lower(),
                "taken": (run["seconds"] or "") if done else "",
            }
        )
    return sorted(found, key=lambda stage: stage["place"])
