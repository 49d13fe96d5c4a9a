"""Benchmarks compare within a round and say what spread they saw."""

import pytest

from benchmarks.timing import Spread, Timing, interleave, markdown_table, timing_record


def test_every_round_runs_every_case_once_in_a_rotating_order() -> None:
    calls: list[str] = []
    cases = {name: lambda name=name: calls.append(name) for name in "abc"}
    timings = interleave(cases, rounds=3, warmup=1)
    assert [timing.name for timing in timings] == ["a", "b", "c"]
    assert all(len(timing.seconds) == 3 for timing in timings)
    assert calls == ["a", "b", "c", "b", "c", "a", "c", "a", "b", "a", "b", "c"]


def test_a_speedup_is_the_ratio_within_the_round_so_that_a_drift_cancels() -> None:
    drift = (1.0, 10.0, 3.0, 100.0)
    slow = Timing("slow", tuple(2 * d for d in drift))
    fast = Timing("fast", drift)
    assert fast.speedup_over(slow) == Spread(2.0, 2.0, 2.0)
    assert timing_record([slow, fast], "slow")[1]["speedup"] == {"median": 2.0, "low": 2.0, "high": 2.0}


def test_the_spread_is_the_quartiles() -> None:
    assert Spread.of([5.0, 1.0, 2.0, 4.0, 3.0]) == Spread(3.0, 2.0, 4.0)
    assert Spread.of([7.0]) == Spread(7.0, 7.0, 7.0)


def test_a_table_has_one_width_per_column() -> None:
    lines = markdown_table(["case", "s"], [["a longer name", "1"], ["b", "12.5"]]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[3] == "| b             | 12.5 |"


def test_nothing_to_time_is_an_error() -> None:
    with pytest.raises(ValueError, match="one case"):
        interleave({})
