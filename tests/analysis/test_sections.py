"""What the report has beside its table."""

from base64 import b64encode
from xml.etree import ElementTree

import pytest
from recorded_runs import DENSE, Recorder, noise, read_back

from analysis.figures.catalogue import FIGURES, Source, draw_all
from analysis.files import RunFiles
from analysis.findings import UNKNOWN
from analysis.findings_claims import CLAIMS, find
from analysis.sections import Sections, sections

PICTURE = b"\x89PNG\r\n\x1a\n of a test"


@pytest.fixture(scope="module")
def found(recorder: Recorder, tmp_path_factory: pytest.TempPathFactory) -> Sections:
    recorder.client.create_experiment("sections", artifact_location=tmp_path_factory.mktemp("f").as_uri())
    parent = recorder.parent("sections")
    recorder.attack(parent, DENSE, {"clean": 190, "pgd20": 100})
    for ratio in ("0.5", "0.9"):
        run = recorder.attack(parent, noise(ratio=ratio), {"clean": 188, "pgd20": 150})
    picture = tmp_path_factory.mktemp("picture") / "examples.png"
    picture.write_bytes(PICTURE)
    recorder.client.log_artifact(run, str(picture))
    runs = read_back(recorder, "sections", {}).runs
    source = Source(runs=runs, files=RunFiles(recorder.tracking_uri))
    return sections(source, draw_all(source), find(runs))


def test_each_claim_is_told_or_not_and_each_figure_is_drawn_or_not(found: Sections) -> None:
    titles = {line[0] for line in (*found.told, *found.untold)}
    assert titles == {claim.title for claim in CLAIMS}
    assert {line[1] for line in found.untold} == {UNKNOWN}
    assert UNKNOWN not in {line[1] for line in found.told}
    shown = {figure.title for figure in found.figures}
    assert shown == {"Accuracy over the share of noise (figure 4)", "What the runs cost"}
    assert shown | {title for title, _ in found.not_drawn} == {kind.title for kind in FIGURES}
    assert all(reason for _, reason in found.not_drawn)


def test_figures_are_well_formed_have_their_caption_and_stay_legible(found: Sections) -> None:
    for figure in found.figures:
        root = ElementTree.fromstring(figure.drawing)
        assert root.get("aria-labelledby") == figure.anchor
        points = float(root.attrib["viewBox"].split()[2])
        least, most = figure.widths
        # letters of 7 points are at least 7.9 pixels high, and 11.2 at most
        assert 7 * least / points >= 7.9
        assert 7 * most / points <= 11.25


def test_adversarial_examples_are_in_the_page_itself(found: Sections) -> None:
    [(label, url)] = found.examples  # the dense network has kept none
    assert label == "small_resnet on digits, Ratio 0.9, clean"
    assert url == f"data:image/png;base64,{b64encode(PICTURE).decode()}"
