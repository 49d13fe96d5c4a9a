"""The report: complete, self-contained, and nothing in it that is not in the runs."""

import re
from html.parser import HTMLParser

import pytest
from recorded_runs import DENSE, LATER, NUMBERS, PROTOCOL, Recorded, Recorder, flat, noise, read_back

from analysis.names import percent
from analysis.notes import flags
from analysis.report import inline_svg, render
from analysis.runs import stage_runs
from analysis.tables.robustness import build_table

VOID = {"meta", "link", "br", "img", "hr", "input"}
LOADING = ("src", "srcset", "href", "xlink:href", "action", "data", "poster")


class Page(HTMLParser):
    """Checks that tags are balanced; collects what the page would load, its text and its table cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.tags: set[str] = set()
        self.words: list[str] = []
        self.scripts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        given = dict(attrs)
        self.loads += [str(given[name]) for name in LOADING if name in given]
        self.ids += [str(given["id"])] if "id" in given else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> at line {self.getpos()[0]} closes something else"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        elif "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def page_of(found: Recorded) -> str:
    table = build_table(found.runs)
    return render(
        table,
        parent=found.parent,
        attack_runs=found.runs,
        all_runs=stage_runs(found.parent, stage=None),
        flags=flags(table, found.runs, found.parent),
        command="python -m analysis --params some.yaml",
    )


@pytest.fixture(scope="module")
def html(demo: Recorded) -> str:
    return page_of(demo)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_the_page_is_well_formed(page: Page) -> None:
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))


def test_the_page_loads_nothing(html: str, page: Page) -> None:
    # within the figure there are references to its own parts
    assert all(target.startswith("#") and target[1:] in page.ids for target in page.loads)
    assert not page.tags & {"link", "iframe", "object", "embed", "img"}
    assert not any(re.search(r"fetch|XMLHttp|import|WebSocket|eval|innerHTML", text) for text in page.scripts)
    assert not re.search(r"@import|@font-face|url\((?!#)", html)
    # what remains of addresses are names of XML vocabularies
    assert set(re.findall(r"https?://[^\"\s<]+", html)) <= {
        "http://www.w3.org/1999/xlink",
        "http://www.w3.org/2000/svg",
    }


def test_the_page_fits_screens_paper_and_dark_rooms(html: str) -> None:
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html
    assert 'name="viewport"' in html
    assert "color-scheme: light dark" in html


def test_the_figure_has_the_colours_of_the_page(html: str) -> None:
    figure = html[html.index("<svg") : html.index("</svg>")]
    assert "var(--series-1)" in figure
    assert not re.search(r"(?:fill|stroke): #", figure)
    assert not re.search(r"<svg[^>]*(width|height)=", figure)
    assert 'viewBox="0 0 ' in figure


def test_words_come_before_numbers_and_origin(page: Page) -> None:
    order = [
        "networks with noise cost",
        "Accuracy and cost",
        "Accuracy over BitOPs",
        "Protocol",
        "Where the numbers",
    ]
    places = [page.text.index(words) for words in order]
    assert places == sorted(places)
    assert (
        "At ratio 0.9 the network costs 17.4% of the dense BitOPs (18.0% with the measured masks)."
        in page.text
    )
    # 140 against 100 of 200 with blocked, 70 against 100 with straight-through gradients
    assert "rises by 20.0 points" in page.text
    assert "falls by 15.0 points" in page.text


def test_numbers_intervals_and_origin_are_there(page: Page, demo: Recorded) -> None:
    # 110 of 200, see test_comparison
    assert "55.0 48.1 to 61.7" in page.text
    for run in demo.ids.values():
        assert run[:10] in page.text
    for words in (
        "8/255",
        "straight through",
        "cccccccccc",
        "200 test images",
        "seed 0",
        "2.5 s",
        demo.parent.run_id,
    ):
        assert words in page.text
    assert "pretrain" in page.text


def test_the_same_runs_give_the_same_page(html: str, demo: Recorded) -> None:
    assert page_of(demo) == html


def test_the_caption_names_what_the_figure_has(recorder: Recorder, html: str, adaptive: Recorded) -> None:
    parent = recorder.parent("clean-only")
    for tags in (DENSE, noise(ratio="0.9")):
        recorder.attack(parent, tags, {"clean": 100})
    pages = [page_of(read_back(recorder, "clean-only", {})), html, page_of(adaptive)]
    captions = [re.search(r'id="figure-caption">(.*?)</figcaption>', page, re.DOTALL) for page in pages]
    said = [found[1].partition("intervals: ")[2].partition(".")[0] for found in captions if found]
    assert said == [
        "on clean images",
        "on clean images, under the longest PGD with blocked gradients and under the longest PGD with "
        "straight-through gradients",
        "on clean images, under the longest PGD with blocked gradients and in the worst case, which includes "
        "the adaptive attacks",
    ]


def test_clear_changes_are_marked(html: str) -> None:
    row = re.search(r"Ratio 0\.9, clean</th>(.*?)</tr>", html, re.DOTALL)
    assert row is not None
    cells = re.findall(r"<td data-heading=\"([^\"]+)\">(.*?)</td>", row[1], re.DOTALL)
    marks = {heading: re.findall(r'class="(up|down)"', cell) for heading, cell in cells}
    assert marks["PGD-20"] == ["up"]
    assert marks["PGD-20, straight-through"] == ["down"]
    assert marks["Clean"] == []


def test_doubts_and_gaps_are_said(recorder: Recorder) -> None:
    parent = recorder.parent("doubtful")
    recorder.attack(parent, DENSE | {"git_dirty": "true"}, {"clean": 150, "pgd20": 90})
    recorder.attack(parent, noise(ratio="0.9") | {"git_commit": "d" * 40}, {"clean": 140})
    text = page_of(read_back(recorder, "doubtful", {}))
    page = Page(text)
    assert page.open == []
    assert "Caution" in page.text
    assert "different commits of the code" in page.text
    assert "cccccccccc + changes" in page.text
    assert "Ratio 0.9, clean: PGD-20" in page.text
    sync, compute = (
        "<code>python -m pipeline.tracking sync --params params.yaml</code>",
        "<code>dvc repro</code>",
    )
    assert text.index(sync) < text.index(compute)  # the fast one first
    assert "<code>python -m analysis --params some.yaml</code>" in text


def test_teacher_and_device_are_part_of_the_origin(recorder: Recorder) -> None:
    parent = recorder.parent("origin")
    recorder.stage(parent, "pretrain", device="cuda", threads="3")
    tags = {
        "trained_by": "clean",
        "trained_by_title": "Clean training",
        "pretrain_epochs": "7",
        "threads": "1",
    }
    recorder.attack(parent, DENSE | tags, {"clean": 150})
    text = Page(page_of(read_back(recorder, "origin", {}))).text
    origin = text[text.index("Where the numbers") :]
    assert "small_resnet on digits, seed 0: trained by Clean training, number of epochs: 7" in origin
    assert "cpu, 1 thread 2.5 s" in origin
    assert "cuda 2.5 s" in origin


def test_what_older_runs_have_not_recorded_is_called_that(recorder: Recorder) -> None:
    recorder.attack(recorder.parent("unrecorded"), DENSE | dict.fromkeys(LATER, ""), {"clean": 150})
    text = Page(page_of(read_back(recorder, "unrecorded", {}))).text
    assert "not recorded 2.5 s" in text
    assert "trained by" not in text


def test_a_table_without_noise_has_no_figure(recorder: Recorder) -> None:
    recorder.attack(recorder.parent("plain"), DENSE, {"clean": 150})
    page = Page(page_of(read_back(recorder, "plain", {})))
    assert "svg" not in page.tags
    assert "No network with noise has a result yet." in page.text


def test_tracked_text_cannot_become_markup(recorder: Recorder) -> None:
    tags = noise(ratio="0.9") | {"objective": "<b>`x`"}
    recorder.attack(recorder.parent("markup"), tags, {"clean": 1})
    text = page_of(read_back(recorder, "markup", {}))
    assert "<b>" not in text
    assert "Ratio 0.9, &lt;b&gt;" in text


def test_zero_gradients_are_shares_of_what_was_asked(recorder: Recorder) -> None:
    metrics = {"zero_gradients/pgd20": 30.0, "backwards/pgd20": 4000.0}
    recorder.attack(recorder.parent("zero"), DENSE, {"clean": 150, "pgd20": 90}, metrics=metrics)
    assert "exactly zero" in (text := Page(page_of(read_back(recorder, "zero", {}))).text)
    assert "Dense teacher 0.8%" in text  # 30 of 4000, rounded


def test_settings_are_written_for_readers(recorder: Recorder) -> None:
    attacks = {
        "square": {"in_worst_case": "false", "survivors_of": '["fgsm", "cw_l2"]', "queries": "5000"},
        "cw_l2": {"kind": "cw", "c": "0.0001", "learning_rate": "0.2", "confidence": "0.0"},
    }
    params = PROTOCOL | flat(attacks) | {"attacks.fgsm.eps": str(32 / 255)}
    recorder.attack(recorder.parent("settings"), DENSE, {"clean": 1, "fgsm": 1}, params=params)
    text = page_of(read_back(recorder, "settings", {}))
    settings = text[text.index("<h2>Protocol") : text.index("<h2>Where")]
    titles = re.findall(r"<th scope=\"col\">([^<]*)</th>", settings)
    order = ["Attack", "kind", "eps", "steps", "c", "confidence", "learning rate", "queries", "gradient"]
    assert titles == [*order, "survivors of", "in worst case"]
    assert "<td>FGSM, CW-l2</td>" in settings
    assert "<td>32/255</td>" in settings
    assert "<td>0.2</td>" in settings  # which is 51/255, but no number of pixels


def section(html: str, title: str) -> str:
    """The part of the page below a heading."""
    return html[html.index(f"<h2>{title}</h2>") :].partition("</section>")[0]


@pytest.fixture(scope="module")
def adaptive_html(adaptive: Recorded) -> str:
    return page_of(adaptive)


def test_the_page_of_adaptive_attacks_is_well_formed(adaptive_html: str) -> None:
    page = Page(adaptive_html)
    assert page.open == []
    assert "in the worst case, which includes the adaptive attacks. Points" in page.text
    assert "Square asks for outputs only. Transfer attacks the dense teacher" in page.text


def test_the_steps_have_their_table_and_probes_have_none(adaptive_html: str) -> None:
    main = section(adaptive_html, "Accuracy and cost")
    steps = section(adaptive_html, steps_title := "The attacker who knows the defence, step by step")
    assert 'data-heading="APGD-CE"' in steps
    assert 'data-heading="APGD-CE"' not in main
    assert 'data-heading="Worst case"' in steps
    assert 'data-heading="Worst case"' in main
    assert '<td class="missing" data-heading="AutoAttack (standard)">not defined</td>' in steps
    for title in ("Accuracy and cost", steps_title, "Are gradients masked?"):
        assert "(probe)" not in section(adaptive_html, title)


def test_the_verdict_has_each_number_and_marks_what_is_raised(adaptive_html: str) -> None:
    verdicts = section(adaptive_html, "Are gradients masked?")
    rows = dict(re.findall(r'<th scope="row">([^<]*)</th>(.*?)</tr>', verdicts, re.DOTALL))
    assert list(rows) == ["Dense teacher", "Ratio 0.9, clean", "Ratio 0.9, clean, randomize bank"]
    words = Page(rows["Ratio 0.9, clean"].replace("<td", "<i").replace("</td>", "</i>")).text
    for test, numbers in NUMBERS.items():
        for name, value in numbers.items():
            assert f"{name.replace('_', ' ')} {percent(value)}" in words
        heading = test.replace("_", " ").capitalize()
        [cell] = re.findall(rf'data-heading="{heading}">(.*?)</td>', rows["Ratio 0.9, clean"], re.DOTALL)
        marked = test in ("protocols_disagree", "zero_gradients")
        # a shape for those who see no colours, a word for those who see no shapes
        assert ("&#9670;" in cell, '<span class="hidden">raised: </span>' in cell) == (marked, marked)
    assert "raised" not in rows["Dense teacher"]
    assert rows["Ratio 0.9, clean, randomize bank"].count(">missing<") == 6


def test_without_verdict_and_adaptive_attacks_the_page_has_no_such_sections(html: str) -> None:
    assert "Are gradients masked?" not in html
    assert "step by step" not in html


def test_an_svg_file_becomes_an_element() -> None:
    opening = '<svg width="3pt" height="4pt" viewBox="0 0 3 4" version="1.1">'
    element = inline_svg(f'<?xml version="1.0"?>\n{opening}<g style="fill: #ffffff"/></svg>')
    assert element == (
        '<svg viewBox="0 0 3 4" role="img" aria-labelledby="figure-caption">'
        '<g style="fill: var(--paper)"/></svg>'
    )
