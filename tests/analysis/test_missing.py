"""The command beside a missing number computes it, and not what nobody asked for."""

import re
import shlex
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
from paper_runs import frame
from typer.testing import CliRunner

from analysis import missing
from analysis.current import CurrentSet, read_current_grid
from analysis.narrowing import network_of
from analysis.paper_tables import build_paper_tables
from analysis.remedy import DEFAULT
from analysis.tables.markdown import to_markdown
from analysis.tables.paper_sheet import NOBODY, to_sheet
from analysis.tables.robustness import RobustnessTable, build_table
from pipeline import sweep, tracking_commands
from pipeline.experiment import Experiment
from pipeline.grids import Cell, load_grid
from pipeline.selection import select
from pipeline.sweep_options import asked_for
from pipeline.sweep_records import Asked

GRIDS = ("small-table1", "small-table4", "small-figure4", "table1", "adaptive")


def experiments_of(command: str) -> list[Experiment]:
    """What the sweep in `command` computes, by the options of the real command and the real grid."""
    compute, _, record = command.partition(" && ")
    given = _options(compute, "python -m pipeline.sweep ", sweep.app, [])
    names = ("grid", "where", "data")
    asked = asked_for(*(given[name] for name in names), seeds=given["seeds"], override=given["override"])
    assert asked is not None
    if record:  # a part is recorded with the whole, not as a set of its own
        whole = _options(record, "python -m pipeline.tracking ", tracking_commands.app, ["sync"])
        assert given["tracking"] is False
        assert (whole["grid"], whole["seeds"]) == (given["grid"], given["seeds"])
    return [cell.experiment for cell in select(cells_of(asked.grid, asked.seeds), asked.where)]


@cache
def cells_of(grid: str, seeds: int | None = None) -> tuple[Cell, ...]:
    """All experiments of a grid."""
    return load_grid(grid, seeds=None if seeds is None else range(seeds)).cells


def _options(command: str, program: str, app: typer.Typer, inner: list[str]) -> dict[str, Any]:
    assert command.startswith(program)
    words = shlex.split(command.removeprefix(program))
    parser: Any = typer.main.get_command(app)
    assert words[: len(inner)] == inner
    for name in inner:
        parser = parser.commands[name]
    found: dict[str, Any] = parser.make_context(program, words[len(inner) :]).params
    return found


def empty_table(current: CurrentSet) -> RobustnessTable:
    """The table of a set of which nothing is tracked."""
    return build_table(frame(), expected=current.networks, attacks=current.attacks)


def matching(whole: list[Experiment], is_of: Callable[[Any], bool], column: str) -> list[Experiment]:
    """Those that compute `column` of the network, worked out without any condition."""
    own = [one for one in whole if is_of(network_of(one))]
    return own if column in ("clean", "worst_case") else [one for one in own if column in one.attack.attacks]


@pytest.mark.parametrize("name", GRIDS)
def test_the_command_of_a_row_selects_the_experiments_that_compute_it(name: str) -> None:
    current = read_current_grid(Asked(grid=name))
    whole = [cell.experiment for cell in cells_of(name) if "attack" in cell.until]
    for row, columns in missing.gaps(empty_table(current)):
        for column in (columns[0], columns[-1]):
            expected = matching(whole, row.is_of, column)
            command = current.remedy.computing([(row.is_of, [column])])
            if not expected:
                assert command is None
                continue
            assert command is not None
            assert experiments_of(command) == expected
            assert len(expected) < len(whole)


def test_several_rows_have_a_command_in_common_and_all_of_them_the_whole_grid() -> None:
    current = read_current_grid(Asked(grid="small-figure4"))
    rows = empty_table(current).rows
    essential = [row for row in rows if row.identity["target"] == "essential"]
    command = current.remedy.computing([(row.is_of, ["clean"]) for row in essential])
    assert command is not None
    assert "--where target=essential --no-tracking" in command
    assert {one.finetune and one.finetune.target for one in experiments_of(command)} == {"essential"}
    everything = current.remedy.computing([(row.is_of, ["clean"]) for row in rows])
    assert everything == current.remedy.compute == "python -m pipeline.sweep --grid small-figure4"


def test_a_command_stays_within_what_was_asked_for() -> None:
    """Alternatives of one coordinate: `--where ratio=0.9` beside the other ratios would choose those too."""
    current = read_current_grid(Asked(grid="small-table1", where=("ratio=0.9", "ratio=0.99"), seeds=2))
    rows = empty_table(current).rows
    row = next(row for row in rows if row.identity["ratio"] == 0.99 and row.identity["seed"] == 1)
    command = current.remedy.computing([(row.is_of, ["pgd20"])])
    assert command is not None
    [one] = experiments_of(command)
    assert row.is_of(network_of(one))
    assert one.seed == 1
    assert "--seeds 2" in command
    dense = next(row for row in rows if row.is_dense)  # a row that every table has
    assert current.remedy.computing([(dense.is_of, ["pgd20"])]) is None  # it was not asked for


def test_the_dry_run_of_a_command_plans_the_one_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NENNI_STORE", raising=False)
    current = read_current_grid(Asked(grid="smoke"))
    row = next(row for row in empty_table(current).rows if row.identity["ratio"])
    command = current.remedy.computing([(row.is_of, ["pgd20"])])
    assert command is not None
    words = shlex.split(command.partition(" && ")[0].removeprefix("python -m pipeline.sweep "))
    result = CliRunner().invoke(sweep.app, [*words, "--dry-run"])
    assert result.exit_code == 0, result.output
    assert re.search(r"^1 experiments, ", result.output, re.MULTILINE)


def test_paper_tables_have_the_command_of_each_missing_cell() -> None:
    current = read_current_grid(Asked(grid="small-table1"))
    [table] = build_paper_tables(
        frame(), name="small-table1", expected=current.networks, attacks=current.attacks
    )
    sheet = to_sheet(table, remedy=current.remedy)
    lines = {line.label: line for block in sheet.blocks for line in block.lines if not line.is_derived}
    whole = [cell.experiment for cell in cells_of("small-table1")]
    for row in table.rows:
        for column, cell in zip(table.layout.accuracies, lines[row.label].cells, strict=False):
            if column not in current.attacks and column != "clean":
                continue
            assert cell.main == "missing"
            state, _, command = cell.hover.partition(": ")
            assert state == "missing"
            assert experiments_of(command) == matching(whole, table.wants(row), column)
    [note] = [note for note in sheet.notes if note.startswith("Missing: ")]
    assert f"`{current.remedy.compute}` computes the rest" in note


def test_what_no_experiment_computes_is_said() -> None:
    current = read_current_grid(Asked(grid="small-table1", where=("defense=adversarial",)))
    [table] = build_paper_tables(
        frame(), name="small-table1", expected=current.networks, attacks=current.attacks
    )
    sheet = to_sheet(table, remedy=current.remedy)
    [line] = [line for block in sheet.blocks for line in block.lines if line.label.startswith("RSE (Add)")]
    assert line.cells[0].hover == f"missing: {NOBODY}"


def test_the_list_groups_by_network_and_says_what_differs() -> None:
    current = read_current_grid(Asked(grid="small-table1"))
    table = empty_table(current)
    text = to_markdown(table, title="t", flags=[], remedy=current.remedy)
    _, _, listed = text.partition("Missing numbers: ")
    lines = [line for line in listed.splitlines() if line.startswith("- ")]
    assert len(lines) == len(table.rows)
    for row, line in zip(table.rows, lines, strict=True):
        assert line.startswith(f"- {row.label}: ")
        [command] = re.findall(r"`(.*)`", line)
        assert {row.is_of(network_of(one)) for one in experiments_of(command)} == {True}
    assert not any("`" in line for line in missing.listed(table, DEFAULT))  # one command for all: said once
    assert missing.advice(table, DEFAULT) == str(DEFAULT)
