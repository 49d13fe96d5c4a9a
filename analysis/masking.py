"""The verdict on masked gradients as runs have tracked it: six tests, each with the numbers it rests on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PREFIX = "masking/"
# The tests in their order, each with its numbers in theirs.
TESTS: dict[str, tuple[str, ...]] = {
    "protocols_disagree": ("paper", "adaptive"),
    "black_box_beats_white_box": ("white_box", "black_box", "paper_gradients", "transfer"),
    "one_step_beats_many": ("one_step", "twenty_steps"),
    "unbounded_attack_fails": ("left",),
    "more_steps_do_not_help": ("two_steps", "twenty_steps"),
    "zero_gradients": ("share",),
}
# From where on a test is raised, as fractions: `nenni_core.evaluation.masking` decides, this is to say so.
GAP, TOLERANCE = 0.02, 0.01


@dataclass(frozen=True, kw_only=True)
class MaskingTest:
    """One test: `numbers` are accuracies and shares as fractions."""

    name: str
    raised: bool
    numbers: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The tests of one network, in their order."""

    tests: tuple[MaskingTest, ...]

    @property
    def raised(self) -> tuple[str, ...]:
        """Names of the tests that give reason for doubt; empty if none does."""
        return tuple(test.name for test in self.tests if test.raised)


def read_verdict(run: Mapping[str, Any]) -> Verdict | None:
    """The verdict among the metrics of `run` (a row of `analysis.load_runs`); None if it has none."""
    metrics = {
        name.removeprefix(PREFIX): value
        for name, value in run.items()
        if name.startswith(PREFIX) and value is not None
    }
    found = [name for name in metrics if "/" not in name]
    if not found:
        return None
    return Verdict(tests=tuple(_test(name, metrics) for name in _ordered(found, tuple(TESTS))))


def _test(name: str, metrics: Mapping[str, float]) -> MaskingTest:
    numbers = [other.removeprefix(f"{name}/") for other in metrics if other.startswith(f"{name}/")]
    return MaskingTest(
        name=name,
        raised=metrics[name] > 0,
        numbers={number: metrics[f"{name}/{number}"] for number in _ordered(numbers, TESTS.get(name, ()))},
    )


def _ordered(found: list[str], known: tuple[str, ...]) -> list[str]:
    """What is known in its order, then what is not."""
    return sorted(found, key=lambda name: (known.index(name) if name in known else len(known), name))
