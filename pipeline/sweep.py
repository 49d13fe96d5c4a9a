"""`python -m pipeline.sweep --grid table1`: all experiments of a grid, everything computed once, on Ray Tune.

Exit status 0 only if every stage is done; 1 if stages failed, 2 for a mistake of the user, 3 if it ended
before its end (time budget, no machine left), 130 for Ctrl-C.
"""

import os
from typing import Annotated

import typer

from nenni_core.device import choose_device
from nenni_core.errors import InputError
from pipeline.command_line import StoreOption, TrackingOption, new_app, say, silence_telemetry, user_errors
from pipeline.costs import measured_rates
from pipeline.grids import grid_names
from pipeline.locations import absolute_location, store_location
from pipeline.planning import glance
from pipeline.resources import parse_duration, parse_requests
from pipeline.store import Store, open_store
from pipeline.sweep_display import show_plan
from pipeline.sweep_options import (
    DataOption,
    GridOption,
    SeedsOption,
    SetOption,
    WhereOption,
    asked_for,
)
from pipeline.sweep_records import Asked, End, find_sweep
from pipeline.sweep_run import Options, run_sweep
from pipeline.wanted import Wanted

STATUS: dict[End, int] = {"complete": 0, "failed": 1, "incomplete": 3, "interrupted": 130}
app = new_app("Compute all experiments of a grid, every stage once, on one machine or a cluster.")


@app.command()
def sweep(
    again: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="With --resume: which sweep (default: the newest).")
    ] = None,
    grid: GridOption = None,
    where: WhereOption = None,
    seeds: SeedsOption = None,
    data: DataOption = None,
    override: SetOption = None,
    store: StoreOption = None,
    tracking_uri: TrackingOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be computed, and stop.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an earlier sweep.")] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Compute also what failed before with the same code.")
    ] = False,
    fail_fast: Annotated[
        bool, typer.Option("--fail-fast/--keep-going", help="Stop at the first failure.")
    ] = False,
    address: Annotated[
        str | None, typer.Option(help="A Ray cluster, or auto for the running one; default: this machine.")
    ] = None,
    cores: Annotated[int | None, typer.Option(min=1, help="Cores of this machine to use.")] = None,
    max_concurrent: Annotated[int | None, typer.Option(min=1, help="Most stages at a time.")] = None,
    resources: Annotated[
        list[str] | None,
        typer.Option(help="What a stage asks for, such as attack=cpus:2,gpus:0.5 (repeatable)."),
    ] = None,
    budget: Annotated[str | None, typer.Option(help="Stop after so long, such as 90min or 8h.")] = None,
    time_limit: Annotated[
        str | None, typer.Option(help="A stage that takes longer hangs, and is stopped, such as 2h.")
    ] = None,
    retries: Annotated[
        int, typer.Option(min=0, help="New attempts after a death of the process or a full disk.")
    ] = 1,
    device: Annotated[str, typer.Option(help="cpu, cuda, ..., or auto.")] = "auto",
    tracking: Annotated[bool, typer.Option(help="Record the runs in MLflow.")] = True,
) -> None:
    """Compute all experiments of a grid; what is in the store already is not computed again."""
    silence_telemetry()
    with user_errors():
        given = parse_requests(resources or [])
        limits = [None if text is None else parse_duration(text) for text in (budget, time_limit)]
        wanted = _wanted(asked_for(grid, where, data, seeds=seeds, override=override), resume, again, store)
        if dry_run:
            here = None if address is not None else os.cpu_count()
            _dry_run(wanted, _open(store, wanted), device=choose_device(device), cores=cores or here)
            return
        if address is None and device != "auto":
            choose_device(device)  # raises what each stage would fail of
        options = Options(
            address=address,
            cores=cores,
            max_concurrent=max_concurrent,
            resources=given,
            budget=limits[0],
            time_limit=limits[1],
            retries=retries,
            device=device,
            tracked=tracking,
            tracking_uri=tracking_uri,
            fail_fast=fail_fast,
            retry_failed=retry_failed,
        )
        end = run_sweep(wanted, _open(store, wanted), options)
    raise typer.Exit(STATUS[end])


def _wanted(asked: Asked | None, resume: bool, again: str | None, store: str | None) -> Wanted:
    if not resume:
        if again is not None:
            raise InputError(f"{again!r}: expected --resume beside the name of a sweep")
        if asked is None:
            raise InputError(f"expected --grid with one of {', '.join(grid_names())}, or a file; or --resume")
        return Wanted(asked)
    if asked is not None:
        raise InputError("--resume goes on with what that sweep was asked; expected no --grid beside it")
    record = find_sweep(open_store(store_location(store), say).root, again)
    wanted = Wanted(record.asked)
    if wanted.digest != record.digest:
        raise InputError(
            f"--resume {record.id}: the grid {record.asked.grid!r} or the code gives other stages than then; "
            "start it anew with --grid: what is unchanged is found in the store"
        )
    say(f"going on with {record.id}")
    return wanted


def _open(option: str | None, wanted: Wanted) -> Store:
    return open_store(absolute_location(store_location(option, wanted.grid.store)), say)


def _dry_run(wanted: Wanted, store: Store, *, device: str, cores: int | None) -> None:
    seen = glance(wanted.graph, store)
    rates = measured_rates(store, device=device.partition(":")[0])
    estimates = {
        name: rates.estimate(node) for name, node in wanted.graph.nodes.items() if name in seen.missing
    }
    say(f"{wanted.grid.name}: {wanted.grid.description}" if wanted.grid.description else wanted.grid.name)
    say(f"{len(wanted.graph.plans)} experiments, {len(wanted.graph.nodes)} stages; nothing is computed now")
    show_plan(wanted.graph, seen, estimates, cores)


if __name__ == "__main__":
    app()
