"""`python -m analysis` as a user meets it."""

import sys
from pathlib import Path

import polars as pl
import pytest
import yaml
from recorded_runs import DENSE, IMAGES, Recorded, Recorder, noise
from typer.testing import CliRunner, Result

from analysis.__main__ import app
from analysis.current import read_current_set
from analysis.remedy import remedy_for
from analysis.runs import find_parent
from analysis.tables.robustness import IDENTITY, NOISE

PARAMS = """
tracking: {experiment: EXPERIMENT}
prepare: {dataset: digits, validation_images: 10}
pretrain: {model: small_resnet, epochs: 20}
distill: {}
finetune: {ratio: [0.9, 0.99], objective: [clean]}
attack: {attacks: {fgsm: {kind: fgsm}, pgd20: {kind: pgd}}}
"""
COUNTS = {"clean": 150, "fgsm": 90, "pgd20": 80}
SYNC = "`python -m pipeline.tracking sync --params {}` records what the store has already (seconds)"
ATTACK = "`python -m pipeline.stages.attack --params {}` computes the rest"


def dvc_file(folder: Path, params: str, **more: str) -> None:
    stages = {"prepare": {"cmd": "python -m pipeline.stages.prepare"} | more}
    stages["attack"] = {"cmd": f"python -m pipeline.stages.attack --params {params} --threads 1"} | more
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    dvc_file(tmp_path, "params.yaml")
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
    drawn = ("accuracy_over_bitops", "figure4_accuracy_over_ratio", "cost_of_runs")
    assert files == {
        "reports/report.html",
        "reports/table.md",
        "reports/table.csv",
        "reports/findings.md",
        *(f"reports/figures/{form}/{name}.{form}" for name in drawn for form in ("svg", "png", "pdf")),
    }
    for name in files:
        assert name in result.output
    assert "make ui" in result.output.splitlines()[-1]
    assert "Ratio 0.9" in result.output
    assert "48.1 to 61.7" in result.output  # 110 of 200
    assert pl.read_csv(here / "reports/table.csv")["images"].unique().to_list() == [IMAGES]

    page = (here / "reports/report.html").read_text()
    assert page.index("What holds") < page.index("Accuracy and cost")
    assert "Time and energy on the accelerator (figure 5): no network with noise was simulated" in page
    assert "## BitOPs fall as printed" in (here / "reports/findings.md").read_text()

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


def test_columns_that_do_not_fit_are_named_and_what_decides_stays(
    here: Path, recorder: Recorder, adaptive: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--tracking-uri", recorder.tracking_uri, "--run", adaptive.parent.run_id]
    wide = analyse(here, *arguments, experiment="adaptive")
    assert wide.exit_code == 0, wide.output
    assert "want of width" not in wide.output
    assert "2 of 6" in wide.output
    assert "zero gradients" not in wide.output  # which ones they are is in the files
    assert "zero gradients" in (here / "reports/table.md").read_text()
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "80")
    result = analyse(here, *arguments, experiment="adaptive")
    [row] = [line for line in result.output.splitlines() if "Dense teacher" in line]
    assert row.split()[2:] == ["95.0", "50.0", "50.0", "44.5", "no", "sign"]
    assert "want of width: Paper, FGSM and MIFGSM." in result.output
    assert "\u2026" not in result.output


def test_the_store_of_the_environment_is_used(
    here: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = recorder.parent("by-environment")
    recorder.attack(parent, DENSE, COUNTS)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", recorder.tracking_uri)
    result = analyse(here, "--run", parent[:20], experiment="by-environment")
    assert result.exit_code == 0, result.output
    assert "No network with noise has a result yet." in result.output


def test_a_set_that_ends_with_the_simulation_has_its_figure_and_findings(
    here: Path, recorder: Recorder
) -> None:
    parent = recorder.parent("simulations")
    names = ("seconds", "joules", "energy_delay_joule_seconds")
    metrics = {f"{name}_over_dense/unstructured/measured": 0.3 for name in names}
    stage = {"stage": "simulate"}
    recorder.attack(parent, noise(ratio="0.9") | stage, {}, params={}, metrics=metrics)
    result = analyse(here, "--tracking-uri", recorder.tracking_uri, experiment="simulations")
    assert result.exit_code == 0, result.output
    assert "Simulated networks" in result.output
    assert (here / "reports/figures/svg/figure5_hardware_over_noise.svg").is_file()
    assert "| Noise alone saves time and energy | **holds** |" in (here / "reports/findings.md").read_text()


def test_nothing_tracked_is_one_line_and_status_2(here: Path) -> None:
    result = analyse(here)
    assert result.exit_code == 2
    assert result.stdout == ""
    [line] = result.stderr.splitlines()
    assert line == (
        f"error: nothing is tracked: there is no database {here}/mlflow.db; "
        f"{SYNC.format('params.yaml')}, `dvc repro` computes the rest"
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
    for network in wanted.networks:  # all of the identity, so that no other network stands in for one
        assert network.keys() == set(IDENTITY) - (set(NOISE) if network["defence"] == "dense" else set())
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
    assert f"3 missing numbers: {SYNC.format('params.yaml')}, `dvc repro` computes the rest" in result.output
    assert "note:" not in result.output


def test_another_set_than_the_parameter_file_s_is_announced(here: Path, recorder: Recorder) -> None:
    parent = recorder.parent("changed")
    recorder.attack(parent, DENSE, COUNTS)
    result = analyse(here, "--tracking-uri", recorder.tracking_uri, experiment="changed")
    assert result.exit_code == 0, result.output
    assert "not the numbers of the parameter file as it stands" in result.output
    assert result.output.startswith("caution: ")  # before the numbers
    assert f"{SYNC.format('params.yaml')}, `dvc repro` computes the rest" in result.output
    assert pl.read_csv(here / "reports/table.csv")["label"].to_list() == ["Dense teacher"]


def test_another_set_than_the_parameter_file_s_is_refused_where_that_is_asked_for(
    here: Path, recorder: Recorder
) -> None:
    recorder.attack(recorder.parent("refused"), DENSE, COUNTS)
    arguments = ["--tracking-uri", recorder.tracking_uri, "--current-only"]
    result = analyse(here, *arguments, experiment="refused")
    assert result.exit_code == 2
    [line] = result.stderr.splitlines()
    assert "the set of 'params.yaml' as it stands is not what is tracked" in line
    assert f"{SYNC.format('params.yaml')}, `dvc repro` computes the rest" in line
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
    assert line.startswith(f"error: --out '{out}': cannot write '")


def test_a_file_that_cannot_be_written_is_one_line_and_status_2(
    here: Path, recorder: Recorder, demo: Recorded
) -> None:
    (here / "reports" / "table.csv").mkdir(parents=True)
    result = analyse(here, "--tracking-uri", recorder.tracking_uri)
    assert result.exit_code == 2
    [line] = result.stderr.splitlines()
    assert line == "error: --out 'reports': cannot write 'reports/table.csv': Is a directory"


@pytest.mark.parametrize(
    "uri",
    [
        "sqlite:////nowhere/mlflow.db",
        "sqlite:////proc",
        "mssql://x",  # without its driver
        "nothing://x",
    ],
)
def test_a_tracking_store_that_cannot_be_opened_is_one_line_and_status_2(
    here: Path, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    monkeypatch.setitem(sys.modules, "pyodbc", None)
    result = analyse(here, "--tracking-uri", uri)
    assert result.exit_code == 2
    [line] = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert uri.removeprefix("sqlite:///") in line


def test_gaps_in_another_set_are_not_for_the_parameter_file_to_fill(here: Path, recorder: Recorder) -> None:
    parent = recorder.parent("other-gaps")
    recorder.attack(parent, DENSE, COUNTS)
    recorder.attack(parent, noise(ratio="0.5"), {"clean": 150})
    arguments = ["--tracking-uri", recorder.tracking_uri, "--run", parent]
    result = analyse(here, *arguments, experiment="other-gaps")
    assert result.exit_code == 0, result.output
    assert "Shown is the set that `--run` names" in result.output
    [line] = [line for line in result.output.splitlines() if "missing numbers" in line]
    assert line.startswith(f"2 missing numbers: {SYNC.format('FILE')}, {ATTACK.format('FILE')}")
    assert "dvc repro" not in line
    assert "dvc repro" not in (here / "reports/table.md").read_text().partition("Missing numbers")[2]


def test_a_parameter_file_without_its_data_is_refused_where_the_current_set_is_asked_for(
    here: Path, recorder: Recorder, demo: Recorded
) -> None:
    elsewhere = PARAMS.replace("dataset: digits", "dataset: cifar10, path: nowhere")
    (here / "elsewhere.yaml").write_text(elsewhere.replace("EXPERIMENT", "demo"))
    arguments = ["--tracking-uri", recorder.tracking_uri, "--params", "elsewhere.yaml"]
    result = analyse(here, *arguments, "--current-only")
    assert result.exit_code == 2
    [line] = result.stderr.splitlines()
    assert "--current-only: which set 'elsewhere.yaml' is cannot be told: " in line
    assert "nowhere" in line


def test_the_set_that_was_used_last_is_shown(here: Path, recorder: Recorder) -> None:
    """One that is run again keeps the parent run that it had."""
    older, newer = recorder.parent("used-last"), recorder.parent("used-last")
    recorder.attack(older, DENSE, COUNTS)
    recorder.attack(newer, DENSE, {"clean": 1})
    recorder.client.set_tag(older, "last_used_ms", str(2 * recorder.clock))
    assert find_parent(recorder.tracking_uri, "used-last").run_id == older
    recorder.client.set_tag(newer, "last_used_ms", str(3 * recorder.clock))
    assert find_parent(recorder.tracking_uri, "used-last").run_id == newer


def test_a_tag_that_is_no_time_leaves_the_start_of_the_run(recorder: Recorder) -> None:
    older, newer = recorder.parent("no-time"), recorder.parent("no-time")
    for parent in (older, newer):
        recorder.attack(parent, DENSE, COUNTS)
        recorder.client.set_tag(parent, "last_used_ms", "yesterday")
    assert find_parent(recorder.tracking_uri, "no-time").run_id == newer


def test_messages_name_what_computes_the_parameter_file(here: Path) -> None:
    paper = here / "paper"
    paper.mkdir()
    for name in ("params.yaml", "second set.yaml"):
        (paper / name).write_text(PARAMS)

    def advice(params: str) -> str:
        result = analyse(here, "--params", params)
        assert result.exit_code == 2
        return result.stderr.strip().partition("; ")[2]

    ours = SYNC.format("paper/params.yaml")
    attack = f"{ours}, {ATTACK.format('paper/params.yaml')}"
    repro = f"{ours}, `dvc repro paper/dvc.yaml` computes the rest"
    assert advice("paper/params.yaml") == attack  # there is no dvc.yaml
    dvc_file(paper, "paper/params.yaml.old", wdir="..")
    assert advice("paper/params.yaml") == attack  # it is about another file
    dvc_file(paper, "paper/params.yaml", wdir="..")
    assert advice("paper/params.yaml") == repro
    dvc_file(paper, "params.yaml")
    assert advice("paper/params.yaml") == repro
    (paper / "dvc.yaml").write_text("stages: [not, stages]")
    assert advice("paper/params.yaml") == attack
    second = "'paper/second set.yaml'"  # a shell must take it for one name
    assert advice("paper/second set.yaml") == f"{SYNC.format(second)}, {ATTACK.format(second)}"


@pytest.mark.parametrize(
    ("params", "compute"),
    [
        ("params.yaml", "dvc repro"),
        ("paper/params.yaml", "dvc repro paper/dvc.yaml"),
        ("small/cifar10.yaml", "python -m pipeline.stages.attack --params small/cifar10.yaml"),
    ],
)
def test_the_repository_s_own_parameter_files_have_their_command(
    monkeypatch: pytest.MonkeyPatch, params: str, compute: str
) -> None:
    monkeypatch.chdir(Path(__file__).resolve().parents[2])
    assert remedy_for(Path(params)).compute == compute


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--experimnt", "digits"], "no such option: --experimnt (Possible options: --experiment)"),
        (["--run"], "option '--run' requires an argument"),
        (["params.yaml"], "unexpected extra argument(s) (params.yaml)"),
    ],
)
def test_wrong_options_are_one_line(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        app(arguments, prog_name="analysis")
    said = capsys.readouterr()
    assert (end.value.code, said.out) == (2, "")
    [line] = said.err.splitlines()
    assert line.startswith("error: ")
    assert expected in line
