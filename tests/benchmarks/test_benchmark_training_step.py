"""The benchmark compares steps that do the same work, and its interval is Student's."""

import pytest
import torch

from benchmarks.timing import Timing
from benchmarks.training_step import BASE, accuracy_table, mean_interval, speed_table, steps_to_compare
from nenni_core.training import Recipe

TINY = Recipe(epochs=1, batch_size=4, steps=2)


def test_every_row_takes_a_step_that_moves_the_weights() -> None:
    pytest.importorskip("torchattacks")
    cases = steps_to_compare("small_resnet", 8, TINY, torch.device("cpu"))
    assert list(cases) == [BASE, "+ no parameter gradients", "+ channels last", "+ bfloat16"]
    losses = {}
    for name, case in cases.items():
        values = [case() for _ in range(3)]
        losses[name] = [value[0].item() if isinstance(value, tuple) else value for value in values]
        assert losses[name][2] < losses[name][0]
    # The random starts of the first row come from another generator, bfloat16 rounds: near, not equal.
    for name in cases:
        assert losses[name][0] == pytest.approx(losses[BASE][0], rel=0.05)


def test_the_table_compares_with_the_first_row() -> None:
    table = speed_table([Timing("slow", (0.4, 0.4)), Timing("fast", (0.1, 0.1))])
    assert "400 [400, 400] | 1.00 [1.00, 1.00] |" in table
    assert "100 [100, 100] | 4.00 [4.00, 4.00] |" in table


def test_the_interval_is_students() -> None:
    centre, reach = mean_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert centre == 3.0
    assert reach == pytest.approx(2.776 * (2.5 / 5) ** 0.5, abs=1e-3)  # t(0.975; 4) = 2.776


def test_differences_are_paired_by_seed() -> None:
    rows = [
        {"seed": seed, "precision": precision, "clean": 0.1 * seed + gain, "robust": 0.5}
        for seed in (0, 5)
        for precision, gain in (("float32", 0.0), ("bfloat16", 0.01))
    ]
    table = accuracy_table(rows)
    assert "+1.00 ± 0.00" in table
    assert "| robust      |   50.00 |    50.00 |             +0.00 ± 0.00 |" in table
