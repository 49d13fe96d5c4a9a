"""`python -m pipeline.tracking sync`: bring MLflow up to date with the store."""

from collections.abc import Iterator
from pathlib import Path

import typer

from pipeline.command_line import (
    Params,
    StoreOption,
    TrackingOption,
    new_app,
    say,
    user_errors,
)
from pipeline.experiment import STAGES, ExperimentSet, load_parameters
from pipeline.locations import store_location
from pipeline.runner import Plan, plan
from pipeline.store import Store, open_store
from pipeline.sweep_options import DataOption, GridOption, SeedsOption, SetOption, WhereOption, asked_for
from pipeline.tracking import Tracker
from pipeline.wanted import Wanted

app = new_app("Bring MLflow up to date with the store.")


def main() -> None:
    """Run the command line."""
    app()


@app.callback()
def commands() -> None:
    """Bring MLflow up to date with the store."""


@app.command()
def sync(
    params: Params = Path("params.yaml"),
    grid: GridOption = None,
    where: WhereOption = None,
    seeds: SeedsOption = None,
    data: DataOption = None,
    override: SetOption = None,
    store: StoreOption = None,
    tracking_uri: TrackingOption = None,
) -> None:
    """Record every finished stage of a parameter file, or of a grid, that MLflow does not know yet."""
    with user_errors(ExperimentSet, params):
        asked = asked_for(grid, where, data, seeds=seeds, override=override)
        if asked is None:
            parameters = load_parameters(params)
            plans = plan(parameters.experiments())
            opened = open_store(store_location(store, parameters.store), say, existing=True)
            tracker = Tracker(parameters.tracking, plans, store=opened, uri=tracking_uri)
            stages = _of_plans(plans)
        else:
            wanted = Wanted(asked)
            opened = open_store(store_location(store, wanted.grid.store), say, existing=True)
            tracker = wanted.tracker(opened, tracking_uri)
            stages = ((node.id.stage, node.plan) for node in wanted.graph.nodes.values())
        missing = _record(stages, opened, tracker)
        for line in missing:
            say(f"not in the store: {line}")
        if tracker.has_failed:
            raise typer.Exit(1)


def record_plans(plans: list[Plan], store: Store, tracker: Tracker) -> list[str]:
    """Record what the store has of `plans`; names of what it does not have, in the order of the stages."""
    return _record(_of_plans(plans), store, tracker)


def _of_plans(plans: list[Plan]) -> Iterator[tuple[str, Plan]]:
    return ((stage, planned) for planned in plans for stage in planned.experiment.stages)


def _record(stages: Iterator[tuple[str, Plan]], store: Store, tracker: Tracker) -> list[str]:
    """Record what is there; names of what is not, in the order in which data flows."""
    missing = set()
    for stage, planned in stages:
        entry = store.find(stage, planned.keys[stage])
        if entry is None:
            missing.add((STAGES.index(stage), f"{stage} {planned.subject(stage)}"))
        else:
            tracker.finished(stage, planned, entry, cached=True)
    tracker.close()
    return [name for _, name in sorted(missing)]
