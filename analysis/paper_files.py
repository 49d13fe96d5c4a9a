"""The files of the paper's tables: Markdown, LaTeX, CSV, HTML, and the protocol behind every number."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from markupsafe import Markup

from analysis.current import CurrentSet
from analysis.measurement import Run
from analysis.paired import PairedTest, paired_tests
from analysis.pairing import Comparer
from analysis.paper_layout import DATASETS, column_title
from analysis.paper_tables import PaperTable, build_paper_tables
from analysis.provenance import protocol_of, standing
from analysis.records import Reader
from analysis.remedy import Remedy
from analysis.runs import Parent
from analysis.tables import paired_sheet, paper_sheet
from analysis.tables.paper_csv import to_frame
from analysis.tables.sheet import Sheet
from analysis.tables.sheet_html import to_html
from analysis.tables.sheet_latex import to_latex
from analysis.tables.sheet_markdown import escape, to_markdown

TESTS_SCHEMA: dict[str, pl.DataType] = {
    "dataset": pl.String(),
    "column": pl.String(),
    "ours": pl.String(),
    "against": pl.String(),
    "role": pl.String(),
    "seed": pl.Int64(),
    "images": pl.Int64(),
    "only_ours": pl.Int64(),
    "only_theirs": pl.Int64(),
    "difference": pl.Float64(),
    "p_value": pl.Float64(),
    "adjusted": pl.Float64(),
}


@dataclass(frozen=True, kw_only=True)
class PaperResult:
    """A table of the paper with the paired tests on its networks, and both as sheets."""

    table: PaperTable
    tests: tuple[PairedTest, ...]
    sheets: tuple[Sheet, ...]
    """The table, and the tests where there are any."""


def paper_results(
    runs: pl.DataFrame,
    parent: Parent,
    wanted: CurrentSet,
    *,
    grid: str | None,
    current: bool,
    records: Reader,
    comparer: Comparer | None = None,
) -> list[PaperResult]:
    """The tables of the paper that the runs of `parent` give (see `build_paper_tables`).

    `runs` are those of all stages, `grid` is the name of the grid that was asked for if one was; `current`
    says whether `wanted`, what is asked for, is what was tracked. `records` reads what runs know of single
    images, `comparer` compares by it.
    """
    tables = build_paper_tables(
        runs,
        name=Path(grid).stem if grid else parent.experiment,
        expected=wanted.networks if current else (),
        attacks=wanted.attacks if current else (),
        comparer=comparer,
    )
    return [_result(table, parent.remedy, records) for table in tables]


def _result(table: PaperTable, remedy: Remedy, read: Reader) -> PaperResult:
    without: set[str] = set()

    def noting(run_id: str) -> pl.DataFrame | None:
        found = read(run_id)
        if found is None:
            without.add(run_id)
        return found

    tests = paired_tests(table, noting)
    sheets = [paper_sheet.to_sheet(table, remedy=remedy)]
    if tests or without:
        sheets.append(paired_sheet.to_sheet(table, tests, without_records=len(without)))
    return PaperResult(table=table, tests=tuple(tests), sheets=tuple(sheets))


def fragments(results: Sequence[PaperResult]) -> list[Markup]:
    """The sheets as sections of an HTML page."""
    return [to_html(sheet) for result in results for sheet in result.sheets]


def write_paper_tables(out: Path, results: Sequence[PaperResult]) -> list[Path]:
    """Write `table1.md`, `.tex`, `.csv`, `.html` and `table1-protocol.md`, with tests `table1-tests.*` too.

    `out` is made. Returns the files. Raises `OSError` where that cannot be.
    """
    out.mkdir(parents=True, exist_ok=True)
    files: dict[Path, str] = {}
    for result in results:
        for sheet in result.sheets:
            files[out / f"{sheet.name}.md"] = to_markdown(sheet)
            files[out / f"{sheet.name}.tex"] = to_latex(sheet)
            files[out / f"{sheet.name}.html"] = str(to_html(sheet))
        files[out / f"{result.table.name}.csv"] = to_frame(result.table).write_csv()
        files[out / f"{result.table.name}-protocol.md"] = protocol_notes(result.table)
        if result.tests:
            files[out / f"{result.table.name}-tests.csv"] = tests_frame(result.tests).write_csv()
    for path, text in files.items():
        path.write_text(text, encoding="utf-8")
    return list(files)


def tests_frame(tests: Sequence[PairedTest]) -> pl.DataFrame:
    """One row per paired test: the columns of `TESTS_SCHEMA`, fractions and probabilities."""
    rows = [{name: getattr(test, name) for name in TESTS_SCHEMA} for test in tests]
    return pl.DataFrame(rows, schema=TESTS_SCHEMA, orient="row")


def protocol_notes(table: PaperTable) -> str:
    """The protocol behind every number, as Markdown: what the hover of the HTML table says, and run ids."""
    lines = [f"# The protocol behind table {table.layout.number}, {escape(table.model)}", ""]
    for row in table.rows:
        lines += [f"## {escape(row.label)}, {DATASETS[row.dataset].title}", ""]
        if not row.source.runs:
            lines += ["No finished run.", ""]
            continue
        lines += [_run_line(run) for run in row.source.runs]
        lines.append("")
        for column in table.accuracies:
            entry = row.entries[column]
            if entry.measurement is None:
                lines.append(f"- {escape(column_title(column))}: {escape(str(entry.found))}")
                continue
            said = f"{protocol_of(row.source, column)}. {standing(entry.fitness)}."
            lines.append(f"- {escape(column_title(column))}: {escape(said)}")
        lines.append("")
    return "\n".join(lines)


def _run_line(run: Run) -> str:
    dirty = " with uncommitted changes" if run["git_dirty"] else ""
    return (
        f"- seed {run['seed']}: MLflow run `{run['run_id']}`, key `{run['key']}`, commit "
        f"`{run['git_commit']}`{dirty}, test data `{run['data_fingerprint']}`"
    )
