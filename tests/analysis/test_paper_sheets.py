"""The paper's tables as text: Markdown, LaTeX, HTML and CSV have the same cells, whatever is in them."""

import io
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paper_runs import ATTACKS, DENSE, attack, frame, noise, prepared

from analysis.paper_files import protocol_notes
from analysis.paper_tables import PaperTable, build_paper_tables
from analysis.remedy import DEFAULT
from analysis.tables import sheet_html, sheet_latex, sheet_markdown
from analysis.tables.paper_csv import SCHEMA, to_frame
from analysis.tables.paper_sheet import to_sheet
from analysis.tables.sheet import BEST, SECOND, Sheet, SheetBlock, SheetCell, SheetLine

NASTY = 'a_b & 50% {x} $y$ #1 ~z^2 <i>"q"</i> | \\end *c* `d` [e] \u2212 \u2020'


@pytest.fixture
def table() -> PaperTable:
    """Two seeds of three networks, one with few images of one seed missing; the others are missing."""
    runs = frame(
        prepared(),
        attack(DENSE, {"clean": 8100, "pgd20": 5200, "worst_case": 4800}),
        attack(DENSE, {"clean": 8200, "pgd20": 5300, "worst_case": 4900}, seed=1),
        attack(noise(0.9), {"clean": 8200, "pgd20": 6700, "worst_case": 900}),
        attack(noise(0.9), {"clean": 8300, "pgd20": 6800, "worst_case": 800}, seed=1),
        attack(noise(0.99), {"clean": 7900, "pgd20": 7400, "worst_case": 300}),
    )
    [found] = build_paper_tables(runs, name="table1", attacks=list(ATTACKS))
    return found


@pytest.fixture
def nasty() -> Sheet:
    """A sheet with every kind of cell, and text that each format takes for something else."""
    cells = (
        SheetCell(main="1.0", details=(NASTY, NASTY), rank=BEST, hover=NASTY),
        SheetCell(main="2.0", rank=SECOND),
        SheetCell(main="missing", is_gap=True),
        SheetCell(),
    )
    line = SheetLine(label=NASTY, details=(NASTY,), cells=cells)
    derived = SheetLine(label="Improvement", cells=cells, is_derived=True)
    return Sheet(
        name="nasty",
        title=NASTY,
        caption=NASTY,
        headings=("Method", NASTY, "B", "C", "D"),
        groups=(("One & only", 2), ("Two", 2)),
        blocks=(SheetBlock(title=NASTY, lines=(line, derived)), SheetBlock(title="", lines=(line,))),
        notes=(NASTY.replace("`", ""), "run `python -m x --where a_b=1`"),
    )


def test_the_sheet_says_what_the_table_has(table: PaperTable) -> None:
    sheet = to_sheet(table, remedy=DEFAULT)
    assert sheet.headings == (
        "Method", "Clean", "PGD-20", "FGSM", "MIFGSM", "CW-l2", "AutoAttack", "BitOPs", "Worst case",
        "Masked gradients",
    )  # fmt: skip
    [block] = sheet.blocks
    labels = [line.label for line in block.lines]
    assert labels[:4] == [
        "Overfitting Adversarial Training (Rice et al., 2020)",
        "RSE (Add) (Liu et al., 2018)",
        "RSE (Multiply) (Liu et al., 2018)",
        "Random Projection Filters (Dong & Xu, 2023)",
    ]
    assert labels[4:8] == [
        "Noise Injection Ratio 90%, clean",
        "Improvement",
        "Noise Injection Ratio 99%, clean",
        "Improvement",
    ]
    dense, ninety, gain, most = (block.lines[place] for place in (0, 4, 5, 6))
    pgd = dense.cells[1]
    assert pgd.main == "52.50 \u00b1 0.71"
    assert pgd.details[2] == "paper 52.53, \u22120.03"
    assert pgd.details[3].startswith("agrees (tolerance ")
    assert dense.details == ("fit for a claim: 10000 of 10000 images, 2 of 2 seeds",)
    assert "steps 20" in pgd.hover
    assert "commit cccccccccc" in pgd.hover
    assert ninety.cells[1].rank == SECOND
    assert most.cells[1].rank == BEST
    assert most.details == ("exploratory: 10000 of 10000 images, 1 of 2 seeds",)
    assert gain.cells[1].main == "+15.0"
    assert "paper +14.74" in gain.cells[1].details
    missing = block.lines[1].cells[1]
    assert (missing.main, missing.is_gap) == ("missing", True)
    assert DEFAULT.compute in missing.hover
    assert any("Missing: RSE (Add)" in note and DEFAULT.compute in note for note in sheet.notes)


def test_table_3_has_its_data_sets_side_by_side() -> None:
    rows = [
        attack(network, {"pgd20": 5000}, model="wrn34_10", dataset=dataset)
        for network in (DENSE, noise(0.9))
        for dataset in ("cifar10", "cifar100")
    ]
    [table] = build_paper_tables(frame(*rows), name="table3")
    sheet = to_sheet(table, remedy=DEFAULT)
    assert sheet.groups == (("CIFAR-10", 4), ("CIFAR-100", 4))
    assert len(sheet.headings) == 9
    assert all(len(line.cells) == 8 for block in sheet.blocks for line in block.lines)
    assert not any(line.label == "Improvement" for block in sheet.blocks for line in block.lines)


def test_markdown_has_one_cell_for_each_heading(table: PaperTable, nasty: Sheet) -> None:
    for sheet in (to_sheet(table, remedy=DEFAULT), nasty):
        text = sheet_markdown.to_markdown(sheet)
        lines = [line for line in text.splitlines() if line.startswith("| ")]
        count = {len(re.findall(r"(?<!\\)\|", line)) for line in lines}
        assert count == {len(sheet.headings) + 1}
    assert "**1.0**" in text
    assert "<ins>2.0</ins>" in text
    assert "*missing*" in text
    assert "`python -m x --where a_b=1`" in text


def test_latex_is_balanced_and_has_one_cell_for_each_heading(table: PaperTable, nasty: Sheet) -> None:
    for sheet in (to_sheet(table, remedy=DEFAULT), nasty):
        text = sheet_latex.to_latex(sheet)
        plain = re.sub(r"\\[\\{}&%$#_]", "", text.partition("\n")[2])
        assert plain.count("{") == plain.count("}")
        assert not re.findall(r"[$#~^\u2212]", plain.replace("resizebox{\\textwidth}{!}{%", ""))
        rows = [line for line in text.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
        ampersands = {len(re.findall(r"(?<!\\)&", row)) for row in rows}
        assert ampersands == {len(sheet.headings) - 1}
        assert text.count(r"\begin{table*}") == text.count(r"\end{table*}") == 1
        assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}")  # one in each cell with details
    assert r"\textbf{1.0}" in text
    assert r"\underline{2.0}" in text


ENGINES = ("tectonic", "pdflatex", "lualatex", "xelatex")


def _has(file: str) -> bool:
    """Whether TeX's own search finds a file."""
    search = shutil.which("kpsewhich")
    return search is not None and subprocess.run([search, file], capture_output=True).returncode == 0


def test_latex_compiles(table: PaperTable, nasty: Sheet, tmp_path: Path) -> None:
    engine = next((name for name in ENGINES if shutil.which(name)), None)
    if engine is None:
        pytest.skip(f"no TeX engine here: none of {', '.join(ENGINES)} is in PATH")
    if engine != "tectonic" and not _has("booktabs.sty"):  # a bare engine; tectonic fetches what it needs
        pytest.skip(f"{engine} is here without the package booktabs")
    body = "\n".join(sheet_latex.to_latex(sheet) for sheet in (to_sheet(table, remedy=DEFAULT), nasty))
    (tmp_path / "paper.tex").write_text(sheet_latex.document(body), encoding="utf-8")
    options = [] if engine == "tectonic" else ["-interaction=nonstopmode", "-halt-on-error"]
    done = subprocess.run([engine, *options, "paper.tex"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    assert (tmp_path / "paper.pdf").is_file()


class Cells(HTMLParser):
    """Counts cells by row, and sees that every element is closed in its turn."""

    VOID = frozenset({"br", "meta"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[int] = []
        self.titles: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "tr":
            self.rows.append(0)
        if tag in ("td", "th"):
            self.rows[-1] += int(values.get("colspan") or 1)
        if values.get("title"):
            self.titles.append(values["title"] or "")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_html_is_well_formed_and_says_the_protocol_on_hover(table: PaperTable, nasty: Sheet) -> None:
    for sheet in (to_sheet(table, remedy=DEFAULT), nasty):
        parser = Cells()
        parser.feed(sheet_html.to_html(sheet))
        assert parser.open == []
        assert set(parser.rows) == {len(sheet.headings)}
        hovers = [cell.hover for block in sheet.blocks for line in block.lines for cell in line.cells]
        assert parser.titles == [hover for hover in hovers if hover]


@given(st.text(max_size=40))
def test_any_text_stays_in_its_place(text: str) -> None:
    line = SheetLine(label=text, cells=(SheetCell(main=text or "x", details=(text,), hover=text),))
    sheet = Sheet(
        name="any",
        title=text,
        caption=text,
        headings=("a", text),
        blocks=(SheetBlock(title="", lines=(line,)),),
    )
    rows = [row for row in sheet_markdown.to_markdown(sheet).split("\n") if row.startswith("| ")]
    assert {len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) for row in rows} == {3}
    parser = Cells()
    parser.feed(sheet_html.to_html(sheet))
    assert parser.open == []
    escaped = re.sub(r"\\[\\{}&%$#_]", "", sheet_latex.escape(text))
    assert escaped.count("{") == escaped.count("}")
    assert not re.search(r"[&$#%]", escaped)


def test_csv_has_every_number_with_its_protocol(table: PaperTable) -> None:
    found = pl.read_csv(io.StringIO(to_frame(table).write_csv()), schema=SCHEMA)
    assert found.equals(to_frame(table))
    pgd = found.row(
        by_predicate=(pl.col("column") == "pgd20") & (pl.col("method").str.starts_with("Overfitting")),
        named=True,
    )
    assert pgd["value"] == pytest.approx(0.525)
    assert pgd["printed"] == 0.5253
    assert pgd["verdict"] == "agrees"
    assert (pgd["eps"], pgd["step_size"], pgd["steps"], pgd["restarts"]) == ("8/255", "2/255", "20", "1")
    assert (pgd["images"], pgd["seeds"], pgd["standing"]) == (10_000, 2, "claim")
    assert pgd["git_commit"] == "c" * 40
    assert pgd["interval"] == "mean over seeds (Student)"
    cost = found.row(
        by_predicate=(pl.col("column") == "bitops") & (pl.col("method").str.ends_with("90%")), named=True
    )
    assert cost["value"] == pytest.approx(0.19)
    assert cost["printed"] == pytest.approx(0.452 / 2.6)


def test_the_notes_have_every_run_and_every_number(table: PaperTable) -> None:
    notes = protocol_notes(table)
    for row in table.rows:
        for run in row.source.runs:
            assert f"`{run['run_id']}`" in notes
    assert notes.count("- PGD-20: ") == sum(bool(row.source.runs) for row in table.rows)
