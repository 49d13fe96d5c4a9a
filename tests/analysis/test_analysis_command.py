"""`python -m analysis` as a user meets it."""

from pathlib import Path

import polars as pl
import pytest
from recorded_runs import DENSE, IMAGES, Recorded, Recorder, noise
from typer.testing import CliRunner, Result

from analysis.__main__ import app
from analysis.current import read_current_set
from analysis.runs import find_parent
from analysis.tables.robustness import IDENTITY

PARAMS = """
tracking: {experiment: EXPERIMENT}
prepare: {dataset: digits, validation_images: 10}
pretrain: {model: small_resnet, epochs: 1}
distill: {}
finetune: {ratio: [0.9, 0.99], objective: [clean]}
attack: {attacks: {fgsm: {kind: fgsm}, pgd20: {kind: pgd}}}
"""
COUNTS = {"clean": 150, "fgsm": 90, "pgd20": 80}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "dvc.yaml").write_text("cmd: python -m analysis --params params.yaml")
    return tmp_path


def analyse(here: Path, *arguments: str, experiment: str = "demo") -> Result:
    (here / "params.yaml").write_text(PARAMS.replace("EXPERIMENT", experiment))
    return CliRunner().invoke(app, [*arguments])


def test_everything_is_written_and_named_and_the_same_again(
    here: Path, recorder: Recorder, demo: Recorded
) -> None:
    result = analyse(here, "--tracking-uri", recorder.tracking_uri, "--run", demo.parent.run_id)
    assert result.exit_code == 0, result.output
    files = {str(path.relative_to(here)) for path in (here / "reports").rglob("*") if path.is_file()}
    assert files == {
        "reports/report.html",
        "reports/table.md",
        "reports/table.csv",
        "reports/figures/accuracy_over_bitops.svg",
        "reports/figures/accuracy_over_bitops.png",
        "reports/figures/accuracy_over_bitops.pdf",
    }
    for name in files:
        assert name in result.output
    assert "make ui" in result.output.splitlines()[-1]
    assert "Ratio 0.9" in result.output
    assert "48.1 to 61.7" in result.output  # 110 of 200
    assert pl.read_csv(here / "reports/table.csv")["images"].unique().to_list() == [IMAGES]

    again = analyse(
        here, "--tracking-uri", recorder.tracking_uri, "--run", demo.parent.run_id, "--out", "again"
    )
    assert again.exit_code == 0
    for name in files:
        path = Path(name).relative_to("reports")
        assert (here / name).read_bytes() == (here / "again" / path).read_bytes(), name


def test_a_narrow_terminal_gets_a_narrow_table(
    here: Path, recorder: Recorder, demo: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "80")
    result = analyse(here, "--tracking-uri", recorder.tracking_uri, "--run", demo.parent.run_id)
    rows = [line for line in result.output.splitlines() if "Dense teacher" in line]
    assert len(rows) == 1
    assert "\u2026" not in result.output  # nothing is cut off
    assert "95.0" in rows[0]


def test_the_store_of_the_environment_is_used(
    here: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = recorder.parent("by-environment")
    recorder.attack(parent, DENSE, COUNTS)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", recorder.tracking_uri)
    result = analyse(here, "--run", parent[:20], experiment="by-environment")
    assert result.exit_code == 0, result.output
    assert "No network with noise has a result yet." in result.output


def test_nothing_tracked_is_one_line_and_status_2(here: Path) -> None:
    result = analyse(here)
    assert result.exit_code == 2
    assert result.stdout == ""
    [line] = result.stderr.splitlines()
    assert (
        line
        == f"error: nothing is tracked: there is no database {here}/mlflow.db; `dvc repro` runs and tracks"
    )
    assert sorted(path.name for path in here.iterdir()) == ["dvc.yaml", "params.yaml"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--experiment", "nowhere"], "no MLflow experiment 'nowhere'"),
        (["--run", "feed"], "run 'feed' is no parent run of experiment 'demo'"),
        (["--params", "other.yaml"], "other.yaml"),
    ],
)
def test_mistakes_are_one_line_and_status_2(
    here: Path, recorder: Recorder, demo: Recorded, arguments: list[str], said: str
) -> None:
    result = analyse(here, "--tracking-uri", recorder.tracking_uri, *arguments)
    assert result.exit_code == 2
    [line] = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert said in line
    assert not (here / "reports").exists()


def test_the_set_of_the_parameter_file_goes_before_newer_ones(here: Path, recorder: Recorder) -> None:
    (here / "params.yaml").write_text(PARAMS.replace("EXPERIMENT", "ours"))
    wanted = read_current_set(here / "params.yaml")
    assert wanted.experiment == "ours"
    assert wanted.attacks == ("fgsm", "pgd20")
    assert [network.get("ratio") for network in wanted.networks] == [None, 0.9, 0.99]
    assert wanted.networks[1].keys() >= set(IDENTITY) - {"seed"}  # else two networks would be one row
    assert wanted.key is not None

    ours = recorder.parent("ours")
    recorder.client.set_tag(ours, "experiment_key", wanted.key)
    recorder.attack(ours, DENSE, COUNTS)
    recorder.attack(ours, noise(ratio="0.9"), COUNTS | {"pgd20": 70})
    newer = recorder.parent("ours")
    recorder.attack(newer, DENSE, {"clean": 1})

    result = analyse(here, "--tracking-uri", recorder.tracking_uri, experiment="ours")
    assert result.exit_code == 0, result.output
    frame = pl.read_csv(here / "reports/table.csv")
    # the network that the file asks for and that nobody has computed is a row of gaps
    assert frame["label"].to_list() == ["Dense teacher", "Ratio 0.9, clean", "Ratio 0.99, clean"]
    assert frame["pgd20_correct"].to_list() == [80, 70, None]
    assert "3 missing numbers: `dvc repro` computes them" in result.output
    assert "note:" not in result.output


def test_another_set_than_the_parameter_file_s_is_announced(here: Path, recorder: Recorder) -> None:
    parent = recorder.parent("changed")
    recorder.attack(parent, DENSE, COUNTS)
    result = analyse(here, "--tracking-uri", recorder.tracking_uri, experiment="changed")
    assert result.exit_code == 0, result.output
    assert "not the numbers of the parameter file as it stands" in result.output
    assert "`python -m pipeline.tracking sync --params params.yaml`" in " ".join(result.output.split())
    assert pl.read_csv(here / "reports/table.csv")["label"].to_list() == ["Dense teacher"]


def test_another_set_than_the_parameter_file_s_is_refused_where_that_is_asked_for(
    here: Path, recorder: Recorder
) -> None:
    recorder.attack(recorder.parent("refused"), DENSE, COUNTS)
    arguments = ["--tracking-uri", recorder.tracking_uri, "--current-only"]
    result = analyse(here, *arguments, experiment="refused")
    assert result.exit_code == 2
    [line] = result.stderr.splitlines()
    assert "no attack of 'params.yaml' as it stands is tracked" in line
    assert not (here / "reports").exists()
    wanted = read_current_set(here / "params.yaml")
    assert wanted.key is not None
    ours = recorder.parent("refused")
    recorder.client.set_tag(ours, "experiment_key", wanted.key)
    recorder.attack(ours, DENSE, COUNTS)
    assert analyse(here, *arguments, experiment="refused").exit_code == 0


@pytest.mark.parametrize("out", ["params.yaml", "params.yaml/reports", "/proc/reports"])
def test_a_folder_that_cannot_be_written_is_one_line_and_status_2(
    here: Path, recorder: Recorder, demo: Recorded, out: str
) -> None:
    result = analyse(here, "--tracking-uri", recorder.tracking_uri, "--out", out)
    assert result.exit_code == 2
    [line] = result.stderr.splitlines()
    assert out in line
    assert line.startswith("error: ")


def test_the_set_that_was_used_last_is_shown(here: Path, recorder: Recorder) -> None:
    """One that is run again keeps the parent run that it had."""
    older, newer = recorder.parent("used-last"), recorder.parent("used-last")
    recorder.attack(older, DENSE, COUNTS)
    recorder.attack(newer, DENSE, {"clean": 1})
    recorder.client.set_tag(older, "last_used_ms", str(2 * recorder.clock))
    assert find_parent(recorder.tracking_uri, "used-last").run_id == older
    recorder.client.set_tag(newer, "last_used_ms", str(3 * recorder.clock))
    assert find_parent(recorder.tracking_uri, "used-last").run_id == newer


def test_messages_name_the_pipeline_of_the_parameter_file(here: Path) -> None:
    (here / "paper").mkdir()
    (here / "paper" / "params.yaml").write_text(PARAMS)
    result = analyse(here, "--params", "paper/params.yaml")
    assert result.exit_code == 2
    assert "`python -m pipeline.stages.attack --params paper/params.yaml` runs and tracks" in result.stderr
    (here / "paper" / "dvc.yaml").write_text("cmd: python -m analysis --params paper/params.yaml")
    result = analyse(here, "--params", "paper/params.yaml")
    assert "`dvc repro paper/dvc.yaml` runs and tracks" in result.stderr
