"""One sweep from its graph to its summary: plan from the store, execute on Ray Tune, say how it ended."""

import os
import shutil
import signal
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nenni_core.errors import InputError
from pipeline.background_tracker import BackgroundTracker
from pipeline.command_line import progress_display, say
from pipeline.costs import Estimate, measured_rates
from pipeline.graph import NodeId
from pipeline.planning import survey
from pipeline.provenance import commit
from pipeline.ray_session import cluster
from pipeline.remaining import RemainingTime
from pipeline.resources import Capacity, Request, requests
from pipeline.schedule import Schedule
from pipeline.stage_trial import Job
from pipeline.store import Store
from pipeline.sweep_display import SweepDisplay
from pipeline.sweep_follower import INTERRUPTED, Follower
from pipeline.sweep_records import End, Stopwatch, SweepFolder, known_failures
from pipeline.tune_execution import Control, Execution
from pipeline.wanted import Wanted, from_anywhere


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a sweep runs. The cores of a stage may change the last bits of its result, the rest does not."""

    address: str | None = None
    cores: int | None = None
    max_concurrent: int | None = None
    resources: Mapping[str, Request]
    budget: float | None = None
    time_limit: float | None = None
    retries: int = 1
    device: str = "auto"
    tracked: bool = True
    tracking_uri: str | None = None
    fail_fast: bool = False
    retry_failed: bool = False


def run_sweep(wanted: Wanted, store: Store, options: Options) -> End:
    """Compute what is missing of `wanted`, record and show it.

    Raises `InputError` before anything is computed if a stage asks for more than any machine has, there is no
    cluster at the address, or the store is read-only; `OSError` if there cannot be a folder for it.
    """
    watch = Stopwatch()
    with progress_display() as progress:
        seen = survey(wanted.graph, store, on_progress=progress)
    graph = seen.graph(wanted.graph)
    failed = {} if options.retry_failed else known_failures(store.root, seen.missing)
    to_run = seen.missing - graph.below(failed)
    if to_run:
        _check_writable(store.root)
    control = Control()
    # where nothing is to be computed, nothing is started
    machines = cluster(options.address, cores=options.cores) if to_run else nullcontext(Capacity([]))
    with _signals(control), machines as capacity:
        requested = requests(options.resources, gpus=capacity.gpus)
        for stage in dict.fromkeys(name.stage for name in to_run):
            capacity.check(stage, requested[stage])
        folder = SweepFolder.create(store.root, from_anywhere(wanted.asked), wanted.digest, say)
        there = f"{len(seen.cached)} are in the store already"
        say(f"sweep {folder.record.id}: {len(graph.nodes)} stages, {there}")
        rates = measured_rates(store, device="cuda" if capacity.gpus else "cpu")
        seconds = {
            name: _seconds(rates.estimate(node), requested[name.stage]) if name in seen.missing else 0.0
            for name, node in graph.nodes.items()
        }
        schedule = Schedule(
            graph,
            seconds=_completed(seconds),
            cached=seen.cached,
            group=lambda name: requested[name.stage],
            retries=options.retries,
        )
        remaining = RemainingTime(graph, schedule, seconds)
        slots = min(capacity.cores, float(options.max_concurrent or capacity.cores))
        display = SweepDisplay(graph, schedule, lambda: remaining.seconds(slots))
        follower = Follower(
            graph=graph,
            schedule=schedule,
            store=store,
            folder=folder,
            display=display,
            remaining=remaining,
            control=control,
            watch=watch,
            tracker=_tracker(wanted, store, folder, options.tracking_uri) if options.tracked else None,
            fail_fast=options.fail_fast,
            budget=options.budget,
        )
        follower.begin(seen.cached, failed)
        execution = Execution(
            schedule=schedule,
            job=Job(
                nodes=tuple(graph.nodes.values()),
                store=store.location,
                sweep=folder.record.id,
                device=options.device,
                threads={stage: request.threads for stage, request in requested.items()},
                time_limit=options.time_limit,
                commit=commit(),
            ),
            requests=requested,
            capacity=capacity,
            observer=follower,
            control=control,
            root=store.root,
            max_concurrent=options.max_concurrent,
            on_success=follower.check,
        )
        scratch = Path(tempfile.mkdtemp(prefix="nenni-tune-"))
        try:
            with display.live():
                execution.run(scratch)
        except Exception:  # a mistake of ours, or a full disk under Ray: what is done is kept, and said
            traceback.print_exc()
            control.stop("an error of the driver, shown above")
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return follower.finish()


def _check_writable(root: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    if not os.access(root, os.W_OK):
        raise InputError(f"store {str(root)!r} is read-only; expected a folder that can be written to")


def _seconds(estimate: Estimate | None, request: Request) -> float | None:
    return None if estimate is None else estimate.middle / request.threads


def _completed(seconds: Mapping[NodeId, float | None]) -> dict[NodeId, float]:
    """With a length for stages of which nothing is known: the mean of the others, or one for each."""
    known = [value for value in seconds.values() if value]
    mean = sum(known) / len(known) if known else 1.0
    return {name: mean if value is None else value for name, value in seconds.items()}


def _tracker(wanted: Wanted, store: Store, folder: SweepFolder, uri: str | None) -> BackgroundTracker:
    return BackgroundTracker(wanted.tracker(store, uri, sweep_id=folder.record.id))


@contextmanager
def _signals(control: Control) -> Iterator[None]:
    """Ctrl-C and SIGTERM stop cleanly; a second one at once. Tune leaves Ctrl-C to us."""
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"

    def handle(number: int, frame: Any) -> None:
        if control.reason is not None:
            say("stopped at once; the same command continues where this one was")
            os._exit(130)
        say("stopping: what runs is ended at its last checkpoint; once more stops at once")
        control.stop(INTERRUPTED)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
