"""One stage in the process of a worker, without Ray."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from stored_stages import plans_of

from pipeline.graph import build_graph
from pipeline.provenance import Commit
from pipeline.stage_trial import Job, log_path, run_stage, timed_out
from pipeline.store import Store


@pytest.fixture
def job(tiny: dict[str, Any], tmp_path: Path) -> Job:
    graph = build_graph((planned, ("prepare",)) for planned in plans_of(tiny))
    return Job(
        nodes=tuple(graph.nodes.values()),
        store=str(tmp_path),
        sweep="it",
        device="cpu",
        threads={"prepare": torch.get_num_threads()},
        time_limit=None,
        commit=Commit("", False),
    )


@pytest.fixture(autouse=True)
def strictness() -> Any:
    """A stage sets it for its process."""
    before = torch.get_deterministic_debug_mode()
    yield
    torch.set_deterministic_debug_mode(before)


def descriptors() -> set[str]:
    return {f"{number} {os.readlink(f'/proc/self/fd/{number}')}" for number in (1, 2)}


def test_a_stage_writes_to_its_log_and_gives_the_outputs_back(job: Job, tmp_path: Path) -> None:
    before, many = descriptors(), len(os.listdir("/proc/self/fd"))
    outputs = sys.stdout, sys.stderr
    outcome = run_stage(job, 0)
    assert outcome.reason is None
    assert Store(tmp_path).contains(*job.nodes[0].id)
    assert "prepare synthetic: done" in log_path(tmp_path, "it", job.nodes[0]).read_text()
    assert (descriptors(), (sys.stdout, sys.stderr)) == (before, outputs)
    assert len(os.listdir("/proc/self/fd")) == many
    assert run_stage(job, 0).cached


def test_a_device_that_a_machine_lacks_is_no_failure_of_the_stage(job: Job) -> None:
    lacking = Job(**(vars(job) | {"device": "cpuu"}))
    outcome = run_stage(lacking, 0)
    assert "device 'cpuu' cannot be used here" in str(outcome.reason)
    assert outcome.may_pass


def test_the_end_of_time_is_found_before_pages_of_traces(tmp_path: Path) -> None:
    log = tmp_path / "log"
    # thirty threads, each ten calls deep: more than comes back to the driver
    code = """
import faulthandler, sys, threading, time
def deep(level):
    time.sleep(60) if level == 0 else deep(level - 1)
for _ in range(30):
    threading.Thread(target=deep, args=(10,), daemon=True).start()
print("starts on here", file=sys.stderr, flush=True)
faulthandler.dump_traceback_later(1.0, exit=True)
deep(10)
"""
    with log.open("w") as file:
        subprocess.run([sys.executable, "-c", code], stderr=file, check=False)
    assert log.stat().st_size > 10_000
    assert timed_out(log)
