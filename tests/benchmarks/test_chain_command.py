"""The command as a user meets it: in slices, one process at a time; what it leaves is shown like any run."""

import fcntl
import itertools
import resource
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_chain import small_chain, small_files_for_cifar10, write_cifar
from typer.testing import CliRunner

from analysis.__main__ import app as analysis
from benchmarks import chain_plan, paper_scale
from benchmarks.chain_plan import paper_chain, rehearsal
from nenni_core.attacks import AttackSpec
from nenni_core.attacks.protocols import paper_protocol
from nenni_core.progress import Deadline
from pipeline.experiment import ExperimentSet
from pipeline.store_commands import app as store

ROOT = Path(__file__).resolve().parents[2]
ATTACKS = (
    AttackSpec(name="cw_l2", kind="cw", steps=2, c=1.0),
    AttackSpec(name="deepfool", kind="deepfool", steps=1),
)


@pytest.fixture(autouse=True)
def settings_kept() -> Iterator[None]:
    """The command sets PyTorch up for the whole process."""
    strictness, threads = torch.get_deterministic_debug_mode(), torch.get_num_threads()
    yield
    torch.set_deterministic_debug_mode(strictness)
    torch.set_num_threads(threads)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Few images, and a chain of seconds."""
    monkeypatch.setattr(paper_scale, "paper_chain", lambda **_: small_chain(*ATTACKS))
    with small_files_for_cifar10():
        yield write_cifar(tmp_path / "data")


class Call:
    """Runs the command in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, *arguments: object) -> tuple[int, list[str], str]:
        """Exit status, lines and errors."""
        words = ["paper_scale", "--device", "cpu", "--threads", "1", *map(str, arguments)]
        self._monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as caught:
            paper_scale.main()
        printed = self._capsys.readouterr()
        assert isinstance(caught.value.code, int)
        return caught.value.code, printed.out.splitlines(), printed.err


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    return Call(monkeypatch, capsys)


@pytest.mark.slow
def test_slices_become_runs_that_the_analysis_shows(
    folder: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(seconds: float) -> Deadline:
        assert seconds == 60.0
        return Deadline(seconds, stepping())

    monkeypatch.setattr(paper_scale, "Deadline", short)
    out = tmp_path / "out"
    asked = ("--data", folder, "--out", out, "--minutes", 1, "--commit", "0" * 40)
    computed: list[str] = []
    calls = 0
    while calls < 20:
        calls += 1
        status, lines, errors = call(*asked)
        assert errors == ""
        stages = [line for line in lines if line.split(";")[0].split()[0] in paper_stages()]
        computed += stages
        assert all(f"[earlier] {line}" in lines for line in computed if line not in stages)
        if status == 0:
            break
        assert status == paper_scale.UNFINISHED
        assert lines[-1].startswith("the time is over at ")
    assert status == 0
    assert calls > 1
    assert lines[-1] == f"finished: 8 stages in {str(out)!r}"
    assert [line.partition("; ")[0] for line in computed] == [
        f"{step.stage} {step.label}".rstrip() for step in small_chain(*ATTACKS).steps()
    ]
    assert all(" s; " in line and "peak memory" in line for line in computed[1:])

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    places = ["--store", str(tmp_path / "store"), "--tracking-uri", uri]
    imported = CliRunner().invoke(store, ["import", str(out), *places], catch_exceptions=False)
    assert imported.exit_code == 0, imported.stderr
    assert imported.stderr.count(": imported, computed on cpu in ") == 8
    parameters = str(out / paper_scale.PARAMETERS)
    reports = tmp_path / "reports"
    shown = CliRunner().invoke(
        analysis, ["--params", parameters, "--tracking-uri", uri, "--out", str(reports), "--current-only"]
    )
    assert shown.exit_code == 0, shown.output
    [table] = [line for line in (reports / "table.md").read_text().split("\n\n") if line.startswith("|")][:1]
    assert [row.split("|")[1].strip() for row in table.splitlines()[2:]] == [
        "Dense teacher",
        "Ratio 0.9, adversarial",
        "Pattern 7:8, adversarial",
    ]
    assert (reports / "report.html").is_file()


def paper_stages() -> set[str]:
    """The names that lines of finished stages begin with."""
    return {step.stage for step in small_chain(*ATTACKS).steps()}


def test_a_second_process_is_refused(folder: Path, tmp_path: Path, call: Call) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with (out / "lock").open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        status, lines, errors = call("--data", folder, "--out", out)
        assert (status, lines) == (2, [])
        refusal = f"another process works in {str(out)!r}; expected one at a time, or another --out"
        assert errors == f"error: {refusal}\n"
        assert [path.name for path in out.iterdir()] == ["lock"]
    status, lines, errors = call("--data", folder, "--out", out, "--minutes", 1e-9)
    assert (status, errors) == (paper_scale.UNFINISHED, "")  # the lock went with who held it


@pytest.mark.parametrize(
    ("attacks", "missing"), [("paper", "torchattacks"), ("both", "pyautoattack"), ("both", "torchattacks")]
)
def test_what_attacks_lack_is_told_before_anything_is_done(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch, attacks: str, missing: str
) -> None:
    def fails(name: str) -> Any:
        if name == missing:
            raise ModuleNotFoundError("No module named 'scipy'")  # an import of its own

    monkeypatch.setattr(chain_plan, "import_module", fails)
    status, lines, errors = call("--data", tmp_path, "--out", tmp_path / "out", "--attacks", attacks)
    assert (status, lines) == (2, [])
    [line] = errors.splitlines()
    refusal = f"--attacks {attacks} needs {missing}, which cannot be imported here (No module named 'scipy')"
    assert line.startswith(f"error: {refusal}")
    assert f"`{chain_plan.INSTALL}`" in line
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_told_in_one_line(folder: Path, tmp_path: Path, call: Call) -> None:
    """Stood for by the size that the system allows a file to have."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # the images take more
    try:
        status, _, errors = call("--data", folder, "--out", tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (status, errors) == (2, "error: File too large\n")
    assert call("--data", folder, "--out", tmp_path / "out", "--minutes", 1e-9)[0] == paper_scale.UNFINISHED


def test_a_call_that_keeps_nothing_and_other_settings_are_told(
    folder: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("--data", folder, "--out", tmp_path / "out", "--minutes", 1e-9)
    status, lines, _ = call(*asked)
    assert status == paper_scale.UNFINISHED
    assert lines[-1].startswith("nothing of this call is kept; expected more --minutes")
    assert not any("other settings" in line for line in lines)
    again = call(*asked)[1]
    assert not any("other settings" in line for line in again)
    monkeypatch.setattr(paper_scale, "paper_chain", lambda **_: replace(small_chain(*ATTACKS), ratios=(0.5,)))
    changed = call(*asked)[1]
    assert changed[0] == ("other settings than in the last call: finetune.ratio; what it has finished stays")
    monkeypatch.setattr(paper_scale, "Deadline", lambda seconds: Deadline(seconds, stepping()))
    kept = call(*asked[:-1], 0.2)[1]  # 12 looks at the clock
    assert kept[-1].startswith("the time is over at ")
    assert any(line.startswith("prepare") for line in kept)


def stepping() -> Callable[[], float]:
    """A clock on which one second goes by with each look at it."""
    count = itertools.count()
    return lambda: float(next(count))


def test_the_installation_that_is_told_is_the_locked_one() -> None:
    locked = (ROOT / "requirements" / "no-deps.lock").read_text()
    versions = sorted(line.split()[0] for line in locked.splitlines() if "==" in line)
    assert f"pip install scipy && pip install --no-deps {' '.join(reversed(versions))}" == chain_plan.INSTALL


def test_a_rehearsal_has_all_that_the_chain_has() -> None:
    whole = paper_chain()
    small = rehearsal(whole)
    assert [(step.stage, step.label) for step in small.steps()] == [
        (step.stage, step.label) for step in whole.steps()
    ]
    assert small.attack.attacks == whole.attack.attacks
    assert {spec.name for spec in paper_protocol()} < {spec.name for spec in small.attack.attacks}
    described = ExperimentSet.model_validate(small.parameters("there"))
    assert described.tracking.experiment == "paper-scale-rehearsal"  # apart from the real runs
    assert described.pretrain.model == "small_resnet"
