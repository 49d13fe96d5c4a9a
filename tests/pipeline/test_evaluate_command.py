"""`python -m pipeline.evaluate`: it agrees with the library, continues after a kill, says what it omits."""

import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import polars
import pytest
import torch
from evaluate_call import ADAPTIVE, IMAGES, LIMITS, call
from rich.console import Console
from safetensors.torch import save_file

from nenni_core.attacks import AttackSpec, adaptive_protocol, paper_protocol
from nenni_core.data import fingerprint, load_dataset, subset
from nenni_core.evaluation import evaluate, masking_probes, verdict_of
from nenni_core.files import sha256_of
from pipeline import evaluate as module
from pipeline.evaluate import applicable
from pipeline.evaluation_display import IN_ALL, InAll, table_of
from pipeline.networks import find_network
from pipeline.store import SCRATCH

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.usefixtures("own_models")


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    data = load_dataset("digits")
    chosen = subset(data.test_labels, IMAGES, 0)
    return torch.from_numpy(data.test_images[chosen]), torch.from_numpy(data.test_labels[chosen])


def without_seconds(results: dict) -> dict:
    columns = [results["clean"], *results["attacks"].values()]
    for facts in columns:
        facts.pop("seconds")
    return results


def text_of(table: object) -> list[str]:
    """The lines of a rich table without its last column, which is seconds."""
    console = Console(width=110, file=io.StringIO())
    console.print(table)
    return rows(console.file.getvalue())


def rows(text: str) -> list[str]:
    shown = [line for line in text.splitlines() if re.search(r"\d to \d", line)]
    return [re.sub(r"\s+\d+\.\d\s*$", "", line).rstrip() for line in shown]


# --- results ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_it_finds_what_the_library_finds(own_models: Path) -> None:
    net = find_network(None, "own:network").load((1, 8, 8), 10, "cpu")
    save_file(net.state_dict(), own_models / "net.safetensors")
    shown = call(
        "net.safetensors", "--model", "own:network", *LIMITS, "--out", "found", "--surrogate", "own:same"
    )
    assert shown.exit_code == 0, shown.output

    paper, probes = paper_protocol(0.3, 0.1), masking_probes(0.3, 0.1)
    adaptive = adaptive_protocol(0.3, step_size=0.1, steps=3, queries=20, eot_samples=2)
    specs = [*paper, *probes, *adaptive]
    images, labels = digits()
    expected = evaluate(net, images, labels, specs, num_classes=10, batch_size=10, surrogate=net)
    assert expected.accuracy("clean").value > 0.5
    assert rows(shown.stdout) == text_of(table_of(expected))
    assert str(verdict_of(expected)) in shown.stdout
    assert "Left out" not in shown.stdout

    found = json.loads((own_models / "found" / "results.json").read_text())
    summary = without_seconds(expected.summary())
    assert summary.items() <= without_seconds(found).items()
    assert found["network"]["weights_sha256"] == sha256_of(own_models / "net.safetensors")
    assert found["data_fingerprint"] == fingerprint("digits")
    assert found["asked"]["images"] == IMAGES
    assert found["versions"]["torch"] == str(torch.__version__)
    verdict = verdict_of(expected)
    assert verdict is not None
    assert json.loads((own_models / "found" / "masking.json").read_text()) == verdict.summary()
    records = polars.read_parquet(own_models / "found" / "records.parquet")
    assert records.equals(polars.DataFrame(expected.records()))
    assert not (own_models / "found" / SCRATCH).exists()


def test_a_verdict_of_another_protocol_does_not_stay(own_models: Path) -> None:
    (own_models / "found").mkdir()
    (own_models / "found" / "masking.json").write_text("{}")
    assert call("-", "--model", "own:network", *ADAPTIVE, "--out", "found").exit_code == 0
    assert sorted(path.name for path in (own_models / "found").iterdir()) == [
        "records.parquet",
        "results.json",
    ]


def test_without_a_folder_nothing_is_written(own_models: Path) -> None:
    before = sorted(path for path in own_models.rglob("*") if "__pycache__" not in path.parts)
    assert call("--model", "own:network", *ADAPTIVE).exit_code == 0
    assert sorted(path for path in own_models.rglob("*") if "__pycache__" not in path.parts) == before


# Python imports this in every process of ours. Putting a finished batch in its place is an audited event.
SITECUSTOMIZE = """
import os, signal, sys

def hook(event, arguments):
    if event == "os.rename" and str(arguments[1]).endswith(".safetensors"):
        with open(os.environ["LOG"], "a") as log:
            log.write(os.path.basename(arguments[1]) + "\\n")
        if str(arguments[1]).endswith(os.environ.get("KILL_BEFORE") or "never"):
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(hook)
"""


@pytest.mark.slow
def test_a_killed_run_continues_at_its_batch(own_models: Path) -> None:
    (own_models / "sitecustomize.py").write_text(SITECUSTOMIZE)

    def started(out: str, log: str, kill_before: str = "") -> int:
        command = [sys.executable, "-m", "pipeline.evaluate", "-", "--model", "own:network", *ADAPTIVE]
        environment = os.environ | {
            "PYTHONPATH": f"{own_models}{os.pathsep}{ROOT}",
            "LOG": str(own_models / log),
            "KILL_BEFORE": kill_before,
        }
        return subprocess.run(
            [*command, "--dataset", "digits", "--threads", "1", "--out", out],
            cwd=own_models,
            env=environment,
            capture_output=True,
            timeout=100,
        ).returncode

    def finished(log: str) -> list[str]:
        return (own_models / log).read_text().split()

    assert started("whole", "whole.log") == 0
    assert started("killed", "first.log", "apgd_ce-00001.safetensors") == -signal.SIGKILL
    assert not (own_models / "killed" / "results.json").exists()
    assert started("killed", "second.log") == 0
    *before, under_way = finished("first.log")
    assert before
    assert under_way == "apgd_ce-00001.safetensors"
    assert [*before, *finished("second.log")] == finished("whole.log")
    whole, killed = (
        without_seconds(json.loads((own_models / out / "results.json").read_text()))
        for out in ("whole", "killed")
    )
    assert killed["asked"] == whole["asked"]
    assert killed == whole
    assert not (own_models / "killed" / SCRATCH).exists()


def test_an_interrupt_says_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: object, **settings: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "evaluate", interrupt)
    stopped = call("--model", "own:network", *ADAPTIVE)
    assert (stopped.exit_code, "nothing was kept" in stopped.stderr) == (130, True)
    stopped = call("--model", "own:network", *ADAPTIVE, "--out", "kept")
    assert (stopped.exit_code, "continues" in stopped.stderr) == (130, True)


# --- what is left out, and said --------------------------------------------------------------------------


def test_transfer_needs_a_surrogate() -> None:
    shown = call("--model", "own:network", *ADAPTIVE)
    assert "Left out: attack transfer" in shown.stdout
    assert [line.split()[0] for line in rows(shown.stdout)][1:-1] == [
        "apgd_ce",
        "apgd_dlr_targeted",
        "square",
        "autoattack_standard",
    ]


def test_a_random_model_is_averaged_over(own_models: Path) -> None:
    shown = call("--model", "own:noisy", *ADAPTIVE, "--out", "found")
    assert shown.exit_code == 0, shown.output
    net = find_network(None, "own:noisy").load((1, 8, 8), 10, "cpu")
    specs = adaptive_protocol(0.3, step_size=0.1, steps=3, queries=20, eot_samples=2, random=True)[1:]
    expected = evaluate(net, *digits(), specs, num_classes=10, batch_size=10)
    assert expected.judged_again is not None
    records = polars.read_parquet(own_models / "found" / "records.parquet")
    assert records.equals(polars.DataFrame(expected.records()))


def test_randomness_of_an_unknown_source_is_noticed() -> None:
    shown = call("--model", "own:dice", *LIMITS, "--protocol", "adaptive", "--images", "10")
    assert shown.exit_code == 0, shown.output
    assert "'autoattack_standard' is defined for deterministic models, and this one is random" in shown.stdout


@pytest.mark.parametrize(
    ("random", "num_classes", "left"),
    [
        (False, 10, ["autoattack_standard", "autoattack_torchattacks", "square"]),
        (True, 10, ["autoattack_torchattacks", "square"]),
        (False, 3, ["square"]),
    ],
)
def test_attacks_that_are_not_defined_are_left_out(random: bool, num_classes: int, left: list[str]) -> None:
    kinds = ("autoattack_standard", "autoattack_torchattacks")
    specs = [AttackSpec(name=kind, kind=kind) for kind in kinds]
    specs.append(AttackSpec(name="square", kind="square", survivors_of=kinds))
    kept, notes = applicable(specs, random=random, num_classes=num_classes, surrogate=False)
    assert [spec.name for spec in kept] == left
    assert kept[-1].survivors_of == tuple(left[:-1])
    assert len(notes) == len(specs) - len(kept)
    assert all(note.startswith("Left out: attack autoattack_") for note in notes)


def test_progress_tells_the_attack_and_all_of_them() -> None:
    told: list[tuple[str, int, int]] = []
    specs = [AttackSpec(name=name, kind="pgd", steps=3) for name in ("one", "two", "three")]
    progress = InAll(lambda *what: told.append(what), specs, images=10, random=False)  # 1 + 3 * 9 passes
    for report in (("clean", 10, 10), ("one", 4, 8), ("one", 8, 8), ("three", 5, 5), ("worst_case", 1, 1)):
        progress(*report)
    assert [completed for name, completed, _ in told if name == IN_ALL] == [0, 3, 3, 19, 35, 35, 100]
    last = {name: (completed, total) for name, completed, total in told}
    assert last == {
        "clean": (10, 10),
        "one": (8, 8),
        "two": (10, 10),
        "three": (5, 5),
        IN_ALL: (100, 100),
        "worst_case": (1, 1),
    }
