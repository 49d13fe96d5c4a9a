"""`kill -9` at any moment: the next start goes on to the bits of a run that nobody disturbed."""

import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from training_problem import net, net_of_kind, problem, recipe, same

from nenni_core.defenses import Defense, make_defense
from nenni_core.errors import InputError
from nenni_core.training import TrainingResult, train

HERE = Path(__file__).parent


def run(directory: Path | None, kind: str) -> tuple[TrainingResult, int]:
    """Train to the end in this process, with one thread as the child; how many epochs that took, too."""
    threads, epochs = torch.get_num_threads(), []
    torch.set_num_threads(1)
    try:
        result = train(
            net_of_kind(kind), *problem(), recipe(epochs=4, flip=True), seed=5,
            checkpoint_dir=directory, on_epoch=epochs.append,
        )  # fmt: skip
    finally:
        torch.set_num_threads(threads)
    return result, len(epochs)


@pytest.mark.parametrize(
    ("kind", "moment", "count", "whole"),
    [
        ("noisy", "batch", 2, 0),  # in the first epoch
        ("noisy", "batch", 12, 2),  # in the training of the third (five batches an epoch)
        ("plain", "batch", 14, 2),  # in the validation of the third
        ("noisy", "partial", 3, 2),
        ("plain", "renamed", 3, 3),
        ("bank", "batch", 12, 2),
    ],
)
def test_a_killed_run_ends_in_the_same_bits(
    tmp_path: Path, kind: str, moment: str, count: int, whole: int
) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), str(HERE)])}
    child = subprocess.run(
        [sys.executable, HERE / "restart_child.py", tmp_path, kind, moment, str(count)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert child.returncode == -signal.SIGKILL, child.stderr
    expected, _ = run(None, kind)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resumed, epochs = run(tmp_path, kind)
    assert epochs == 4 - whole
    assert same(resumed.last, expected.last)
    assert same(resumed.best, expected.best)
    assert resumed.history == expected.history
    assert resumed.best_epoch == expected.best_epoch
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize(
    ("first", "second", "named"),
    [
        ("adversarial", make_defense("trades"), r"defense was '?AdversarialTraining.* is '?Trades\("),
        ("trades", make_defense("trades", beta=1.0), r"defense was '?Trades\(beta=6.* is '?Trades\(beta=1"),
    ],
)
def test_another_defence_does_not_continue_a_directory(
    tmp_path: Path, first: str, second: Defense, named: str
) -> None:
    def fit(defense: Defense) -> None:
        train(net(), *problem(), recipe(epochs=1), seed=3, checkpoint_dir=tmp_path, defense=defense)

    fit(make_defense(first))
    with pytest.raises(InputError, match=rf"belongs to another run \({named}[^;]*\); expected the same run"):
        fit(second)
    fit(make_defense(first))
