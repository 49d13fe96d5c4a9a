"""The benchmark of bfloat16 trainings."""

import dataclasses
import re
import sys

import pytest
import torch

from benchmarks import precision
from nenni_core.data import load_dataset


@pytest.mark.slow
def test_differences_are_those_of_the_lines_above(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = load_dataset("digits")
    few = {name: getattr(whole, name)[:200] for name in ("train_images", "train_labels")}
    few |= {name: getattr(whole, name)[:20] for name in ("test_images", "test_labels")}
    monkeypatch.setattr(precision, "load_dataset", lambda name: dataclasses.replace(whole, **few))
    strictness, threads = torch.get_deterministic_debug_mode(), torch.get_num_threads()
    monkeypatch.setattr(sys, "argv", ["precision", "--seeds", "1", "--epochs", "1", "--threads", "1"])
    try:
        precision.main()
    finally:
        torch.set_deterministic_debug_mode(strictness)
        torch.set_num_threads(threads)
    low, full, *differences = capsys.readouterr().out.splitlines()
    assert low.startswith("seed 0, bfloat16: clean ")
    assert full.startswith("seed 0, float32: clean ")
    numbers = [[float(text) for text in re.findall(r"([\d.]+)%", line)] for line in (low, full)]
    for column, line in enumerate(differences):
        [points] = re.findall(r"([+-][\d.]+) points", line)
        assert float(points) == pytest.approx(numbers[0][column] - numbers[1][column], abs=0.011)
    assert len(differences) == 2
