"""`python -m analysis`: the table, the figures, the findings and the report of a tracked experiment."""

import gc
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import Annotated

import polars as pl
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from analysis import findings, missing, report
from analysis.against_dense import AgainstDense
from analysis.current import read_current_grid, read_current_set
from analysis.figures.catalogue import Source, draw_all, save_all
from analysis.figures.drawing import save
from analysis.files import RunFiles
from analysis.findings_claims import find
from analysis.links import Link, links
from analysis.names import WHOLE, column_name, listed
from analysis.notes import flags, missing_cells, other_set
from analysis.pairing import Comparer
from analysis.paper_files import PaperResult, fragments, paper_results, write_paper_tables
from analysis.records import Records
from analysis.runs import NothingTrackedError, Parent, find_parent, stage_runs
from analysis.sections import sections
from analysis.summary import attack_pair, headline
from analysis.tables.markdown import to_markdown
from analysis.tables.robustness import MASKING, RobustnessTable, build_table
from analysis.tables.writing import caption, cells, headings
from nenni_core.errors import InputError
from pipeline.command_line import Params, TrackingOption, new_app, silence_telemetry, user_errors
from pipeline.experiment import ExperimentSet
from pipeline.locations import tracking_location
from pipeline.remote_files import without_secrets
from pipeline.sweep_options import (
    DataOption,
    GridOption,
    SeedsOption,
    SetOption,
    WhereOption,
    asked_for,
    options_of,
)

MASKED = column_name(MASKING)
# A terminal is no place for the thousands of networks that a sweep over seeds may have.
MOST_SHOWN = 100

app = new_app("Write the table, the figures, the findings and the report of a tracked experiment.")


@app.command()
def analyse(
    params: Params = Path("params.yaml"),
    grid: GridOption = None,
    where: WhereOption = None,
    seeds: SeedsOption = None,
    data: DataOption = None,
    override: SetOption = None,
    tracking_uri: TrackingOption = None,
    experiment: Annotated[
        str | None, typer.Option(help="MLflow experiment; default: the parameter file's tracking.experiment.")
    ] = None,
    run: Annotated[
        str | None,
        typer.Option(
            help="Parent run, or the start of its id; default: the parameter file's, else the newest."
        ),
    ] = None,
    current_only: Annotated[
        bool,
        typer.Option("--current-only", help="Fail rather than show another set than the parameter file's."),
    ] = False,
    ui: Annotated[
        str | None,
        typer.Option(
            help="Address of MLflow's pages, for links to runs; default: the tracking server, or for a file "
            "that of `make ui`; '' for no links."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the table, figures, findings and report.")] = Path(
        "reports"
    ),
) -> None:
    """Write the table, the figures, the findings and the report of a tracked experiment."""
    silence_telemetry()
    with user_errors(ExperimentSet, params):
        asked = asked_for(grid, where, data, seeds=seeds, override=override)
        wanted = read_current_set(params) if asked is None else read_current_grid(asked)
        source = str(params) if asked is None else asked.grid
        parent = find_parent(
            tracking_location(tracking_uri, wanted.tracking_uri),
            experiment or wanted.experiment,
            run,
            remedy=wanted.remedy,
            experiment_key=wanted.key,
        )
        runs = stage_runs(parent, stage=None)
        gc.freeze()  # what is there stays: with thousands of runs, looking for garbage in it takes seconds
        current = wanted.key is not None and parent.tags.get("experiment_key") == wanted.key
        if current_only and wanted.key is None:
            raise InputError(f"--current-only: which set {source!r} is cannot be told: {wanted.no_key}")
        if current_only and not current:
            raise NothingTrackedError(
                f"--current-only: the set of {source!r} as it stands is not what is tracked in "
                f"{without_secrets(parent.tracking_uri)}; {wanted.remedy}"
            )
        attack_runs = runs.filter(pl.col("stage") == "attack")
        table = build_table(
            attack_runs,
            expected=wanted.networks if current else (),
            attacks=wanted.attacks if current else (),
        )
        doubts = flags(table, runs, parent)
        command = "python -m analysis"
        if asked is not None:
            command += f" {options_of(asked)}"
        elif params != Path("params.yaml"):
            command += f" --params {quote(str(params))}"
        records = Records(parent.tracking_uri)
        comparer = Comparer(records)
        against = AgainstDense(table, attack_runs, comparer)
        name = asked.grid if asked else None
        results = paper_results(
            runs, parent, wanted, grid=name, current=current, records=records, comparer=comparer
        )
        files = write(
            out,
            table,
            parent=parent,
            runs=runs,
            doubts=doubts,
            command=command,
            results=results,
            link=links(parent, ui),
            comparer=comparer,
            against=against,
        )
    show(table, doubts, files, parent=parent, against=against)


def write(
    out: Path,
    table: RobustnessTable,
    *,
    parent: Parent,
    runs: pl.DataFrame,
    doubts: list[str],
    command: str,
    results: Sequence[PaperResult] = (),
    link: Link | None = None,
    comparer: Comparer | None = None,
    against: AgainstDense | None = None,
) -> list[Path]:
    """Write everything into the folder `out`; the files, the report first. `command` makes it again.

    `results` are the tables of the paper that the runs give, `link` the address of a run in MLflow's pages;
    `comparer` compares networks, `against` those of the table with their dense teachers.

    Raises `InputError` where that cannot be.
    """
    source = Source(runs=runs, files=RunFiles(parent.tracking_uri))
    drawn, found = draw_all(source), find(runs, comparer=comparer)
    of_table = report.table_figures(table)
    page = report.render(
        table,
        parent=parent,
        attack_runs=runs.filter(pl.col("stage") == "attack"),
        all_runs=runs,
        flags=doubts,
        command=command,
        sections=sections(source, drawn, found),
        extra=fragments(results),
        link=link,
        drawn=of_table,
        against=against,
    )
    markdown = to_markdown(table, title=report.title(table), flags=doubts, remedy=parent.remedy)
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "report.html").write_text(page, encoding="utf-8")
        (out / "table.md").write_text(markdown, encoding="utf-8")
        (out / "table.csv").write_text(table.to_polars().write_csv(), encoding="utf-8")
        words = findings.to_markdown(found, parent=parent, doubts=doubts, command=command, link=link)
        (out / "findings.md").write_text(words, encoding="utf-8")
        figures = [path for name, one in of_table.items() for path in save(one, out / "figures", name)]
        figures += save_all(drawn, out / "figures")
        tables = write_paper_tables(out / "tables", results) if results else []
    except OSError as error:
        where = error.filename or out
        reason = error.strerror or error
        raise InputError(f"--out {str(out)!r}: cannot write {str(where)!r}: {reason}") from error
    written = [out / "report.html", out / "table.md", out / "table.csv", out / "findings.md"]
    return [*written, *figures, *tables]


def show(
    table: RobustnessTable,
    doubts: list[str],
    files: list[Path],
    *,
    parent: Parent,
    against: AgainstDense | None = None,
) -> None:
    """Print the table, what to know before reading it, and where everything is."""
    console = Console(soft_wrap=False)
    if not console.is_terminal:
        # a log has no width to keep to
        console = Console(width=200)
    grid, left_out = _fitting(table, console)
    warning = other_set(parent)
    if warning:  # before numbers that could be taken for others
        console.print(Text(f"caution: {warning}", style="bold red"), soft_wrap=True)
        console.print()
    console.print(grid)
    if len(table.rows) > MOST_SHOWN:
        said = f"Shown are {MOST_SHOWN} of {len(table.rows)} networks; the files have them all."
        console.print(Text(said, style="dim"))
    console.print(Text(caption(table), style="dim"))
    if left_out:
        said = f"Not shown here, for want of width: {listed(left_out)}."
        console.print(Text(said, style="dim"))
    console.print()
    console.print(Text(headline(table, against)))
    for doubt in doubts:
        if doubt != warning:
            console.print(Text(f"note: {doubt}", style="yellow"), soft_wrap=True)
    lacking = len(missing_cells(table))
    if lacking:
        said = f"{lacking} missing number{'s' * (lacking > 1)}: {missing.advice(table, parent.remedy)}"
        console.print(Text(said, style="yellow"), soft_wrap=True)
    console.print()
    names = ("report", "table", "numbers", "findings")
    for name, path in zip(names, files, strict=False):
        console.print(Text(f"{name:>8}: {path}"), soft_wrap=True)
    for path in files[len(names) :]:
        name = "paper" if path.parent.name == "tables" else "figure"
        console.print(Text(f"{name:>8}: {path}"), soft_wrap=True)
    console.print(Text(f"{'runs':>8}: make ui"))


def _fitting(table: RobustnessTable, console: Console) -> tuple[Table, list[str]]:
    """The widest grid that fits, and the headings that it lacks for that beside those of the narrow one.

    The printed reductions go first, then the attacks that the words do not speak of.
    """
    told = (*WHOLE, *attack_pair(table))
    spare = ["Paper", *(column_name(column) for column in table.main_columns if column not in told)]
    grid = _grid(table)
    for count in range(len(spare) + 1):
        width = Measurement.get(console, console.options.update(max_width=10_000), grid).maximum
        if width <= console.width:
            return grid, spare[: count - 1] if count else []
        grid = _narrow_grid(table, without=spare[:count])
    return grid, spare


def _grid(table: RobustnessTable) -> Table:
    """All columns, intervals below the accuracies."""
    grid = Table(title=report.title(table), title_justify="left", title_style="bold")
    for place, heading in enumerate(headings(table)):
        wrapped = heading.replace(", ", ",\n").replace(MASKED, MASKED.replace(" ", "\n"))
        grid.add_column(wrapped, justify="right" if place else "left")
    for row in table.rows[:MOST_SHOWN]:
        # which tests are raised is in the files: a line for each of up to six would be too much here
        entries = [
            Text(f"{entry.main}\n{entry.detail}" if entry.detail and heading != MASKED else entry.main)
            for heading, entry in zip(headings(table)[1:], cells(table, row), strict=True)
        ]
        grid.add_row(Text(row.label.replace(", ", ",\n")), *entries)
    return grid


def _narrow_grid(table: RobustnessTable, *, without: list[str]) -> Table:
    """For terminals of 80 characters: no intervals (the files have them), of the cost only the reductions."""
    grid = Table(
        title=report.title(table),
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    hidden = {"BitOPs", "Measured", *without}
    shown = [place for place, heading in enumerate(headings(table)) if heading not in hidden]
    for place in shown:
        heading = headings(table)[place].replace(", straight-through", ",\nstraight-\nthrough")
        heading = heading.replace(MASKED, MASKED.replace(" ", "\n"))
        grid.add_column(heading.replace("Reduction", "Cost"), justify="right" if place else "left")
    for row in table.rows[:MOST_SHOWN]:
        texts = [row.label.replace(", ", ",\n"), *(entry.main for entry in cells(table, row))]
        grid.add_row(*(Text(texts[place]) for place in shown))
    return grid


if __name__ == "__main__":
    app()
