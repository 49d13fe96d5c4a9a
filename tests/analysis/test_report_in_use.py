"""The report under a reader's hands: links to runs, sorted tables, and what it leaves out of very much."""

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from recorded_runs import Recorded

from analysis import report
from analysis.links import LOCAL_UI, Link, links
from analysis.notes import flags
from analysis.runs import stage_runs
from analysis.tables import sheet_html
from analysis.tables.robustness import build_table
from analysis.tables.sheet import Sheet, SheetBlock, SheetCell, SheetLine
from nenni_core.errors import InputError

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def page_of(found: Recorded, link: Link | None = None, extra: str = "") -> str:
    table = build_table(found.runs)
    return report.render(
        table,
        parent=found.parent,
        attack_runs=found.runs,
        all_runs=stage_runs(found.parent, stage=None),
        flags=flags(table, found.runs, found.parent),
        command="python -m analysis",
        link=link,
        extra=[report.Markup(extra)] if extra else [],
    )


def test_every_run_of_the_table_is_linked_where_mlflow_shows_it(demo: Recorded) -> None:
    link = links(demo.parent)
    assert link is not None
    page = page_of(demo, link)
    experiment = demo.parent.experiment_id
    for run_id in (*demo.ids.values(), demo.parent.run_id):
        assert f'<a href="{LOCAL_UI}/#/experiments/{experiment}/runs/{run_id}">' in page
    assert "while <code>make ui</code> is running" in page


def test_links_go_to_the_server_without_its_password_or_where_one_says_or_nowhere(demo: Recorded) -> None:
    served = replace(demo.parent, tracking_uri="https://me:secret@runs.example.org/mlflow/")
    link, said = links(served), links(demo.parent, "http://host:80/")
    assert link is not None
    assert said is not None
    place = f"#/experiments/{demo.parent.experiment_id}/runs/abc"
    address = link("abc")
    assert "secret" not in address
    assert address.startswith("https://")
    assert address.endswith(f"runs.example.org/mlflow/{place}")
    assert said("abc") == f"http://host:80/{place}"
    assert links(demo.parent, "") is None
    for wrong in ("javascript:alert(1)", "host:5000", "ftp://host"):
        with pytest.raises(InputError, match=f"--ui '{re.escape(wrong)}'.*expected"):
            links(demo.parent, wrong)
    assert "<a " not in page_of(demo)
    assert "make ui</code> is running" not in page_of(demo, link)


def test_a_number_says_on_hover_what_is_behind_it(demo: Recorded) -> None:
    page = page_of(demo)
    for run_id in demo.ids.values():
        said = re.findall(rf'title="([^"]*; run {run_id})"', page)
        columns = ("clean", "fgsm", "pgd20", "mifgsm", "pgd20_straight_through")
        assert len(said) == len(columns)
        assert all("200 images; seed 0; commit " in text for text in said)
        assert any(
            text.startswith("kind pgd; eps 8/255; steps 20;") and "straight through" in text for text in said
        )


def test_of_very_many_networks_the_page_shows_some_and_says_so(
    demo: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "not on this page" not in page_of(demo)
    monkeypatch.setattr(report, "MOST_SHOWN", 2)
    page = page_of(demo)
    assert "4 more networks are not on this page" in page
    results = page[
        page.index("<h2>Accuracy and cost") : page.index("</table>", page.index("<h2>Accuracy and"))
    ]
    assert len(re.findall('<th scope="row">', results)) == 2


LINES = [("b", "20.5"), ("c", "9.25"), ("a", "\u22123.1"), ("d", "")]
CLICK = """<script>
const table = document.querySelector("section.sheet table");
const shown = () => [...table.tBodies[0].rows].map((row) => row.cells[0].textContent).join(" ");
const click = (column) => table.tHead.rows[0].cells[column].querySelector("button").click();
const seen = [shown()];
for (const column of [1, 1, 1, 2, 2, 0]) { click(column); seen.push(shown()); }
const said = document.createElement("pre");
said.id = "seen";
said.textContent = seen.join("|");
document.body.append(said);
</script></body>"""


def sheet() -> Sheet:
    """Accuracies; BitOPs with a unit; each row with one that says something of it, and a last row of all."""
    sizes = dict(zip("bcad", ("3.1 G", "544 M", "12 M", "1.2 G"), strict=True))
    lines = []
    for label, number in LINES:
        cells = (SheetCell(main=number or "not attacked", is_gap=not number), SheetCell(main=sizes[label]))
        lines.append(SheetLine(label=label, cells=cells))
        lines.append(SheetLine(label=f"{label}+", cells=(SheetCell(), SheetCell()), is_derived=True))
    last = SheetLine(label="all", cells=(SheetCell(main="99"), SheetCell()), is_derived=True, of_all=True)
    return Sheet(
        name="sorted",
        title="Sorted",
        caption="A table.",
        headings=("Method", "Clean", "BitOPs"),
        blocks=(SheetBlock(title="", lines=(*lines, last)),),
    )


def in_browser(page: Path) -> str:
    """The page as a browser without a window has it after its scripts; skips where there is no browser."""
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"no browser here: none of {', '.join(BROWSERS)} is in PATH")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={page.parent / 'profile'}"]
    try:
        done = subprocess.run(
            [browser, *options, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=60
        )
    except subprocess.TimeoutExpired:
        pytest.skip("the browser that is here did not open a page within a minute")
    if done.returncode or "<html" not in done.stdout:
        pytest.skip(f"the browser that is here does not start: {done.stderr[-300:]}")
    return done.stdout


@pytest.mark.slow
def test_headings_sort_by_number_and_unit_and_rows_stay_with_theirs(demo: Recorded, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    text = page_of(demo, extra=sheet_html.to_html(sheet())).replace("</body>", CLICK)
    page.write_text(text, encoding="utf-8")
    dom = in_browser(page)
    found = re.search(r'<pre id="seen">([^<]*)</pre>', dom)
    assert found is not None
    original, falling, rising, again, large, small, label = found[1].split("|")
    as_it_was = "b b+ c c+ a a+ d d+ all"
    assert original == again == as_it_was
    assert falling == "b b+ c c+ a a+ d d+ all"
    assert rising == "a a+ c c+ b b+ d d+ all"  # what has no number comes last either way
    assert large == "b b+ d d+ c c+ a a+ all"
    assert small == "a a+ c c+ d d+ b b+ all"
    assert label == "a a+ b b+ c c+ d d+ all"
    assert len(re.findall(r'<th[^>]* aria-sort="ascending"', dom)) == 1
