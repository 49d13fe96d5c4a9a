"""The benchmark of the defences compares what it says it does."""

import pytest
import torch

from benchmarks.defenses import BASE, cost_table, networks, passes_to_compare, steps_to_compare
from benchmarks.timing import Timing
from nenni_core.defenses import DEFENSES
from nenni_core.training import Recipe


def test_every_defence_is_timed_on_the_same_batch() -> None:
    found = networks("small_resnet", 8, torch.device("cpu"))
    assert set(found) == set(DEFENSES)
    assert set(networks("resnet18", 8, torch.device("cpu"))) == set(DEFENSES) - {"robust_wrn"}
    x, y = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])
    steps = steps_to_compare(found, x, y, Recipe(epochs=1, steps=1))
    before = {kind: next(network.parameters()).detach().clone() for kind, network in found.items()}
    for kind, step in steps.items():
        loss, logits = step()
        assert loss.isfinite()
        assert logits.shape == (4, 10)
        assert not torch.equal(next(found[kind].parameters()), before[kind])
    for run in passes_to_compare(found, x).values():
        assert run().shape == (4, 10)


def test_ratios_are_times_over_those_of_adversarial_training() -> None:
    timings = [Timing(BASE, (1.0, 2.0)), Timing("trades", (3.0, 6.0))]
    table = cost_table(timings, timings, {BASE: 1.0, "trades": 1.25})
    assert [cell.strip() for cell in table.splitlines()[3].split("|")[1:5]] == [
        "trades",
        "3.00 [3.00, 3.00]",
        "3.00 [3.00, 3.00]",
        "1.2500",
    ]


def test_the_network_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import defenses

    arguments = ["--model=small_resnet", "--image-size=8", "--batch-size=2", "--rounds=1", "--steps=1"]
    monkeypatch.setattr("sys.argv", ["defenses", *arguments])
    defenses.main()
    printed = capsys.readouterr().out
    assert "small_resnet, 8x8, batch 2, PGD-1, cpu" in printed
    assert all(f"| {kind} " in printed for kind in DEFENSES)
