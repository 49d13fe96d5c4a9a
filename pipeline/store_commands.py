"""`python -m pipeline.store ls|verify|gc|import`: look at a store, check it, tidy it, add to it."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from nenni_core.errors import InputError
from pipeline.command_line import StoreOption, TrackingOption, new_app, say, user_errors
from pipeline.experiment import ExperimentSet, load_parameters
from pipeline.locations import store_location
from pipeline.runner import plan
from pipeline.store import Store, open_store

ParamsNamingStore = Annotated[
    Path | None, typer.Option("--params", help="Parameter file that may name the store.")
]

app = new_app("Look at the store of finished stages, check it, tidy it, add to it.")


def main() -> None:
    """Run the command line."""
    app()


@app.command("ls")
def list_entries(store: StoreOption = None, params: ParamsNamingStore = None) -> None:
    """List what is finished and what was begun, with size, seconds and commit."""
    with user_errors(ExperimentSet, params):
        opened = _opened(store, params)
        table = Table("stage", "key", "MB", "seconds", "commit", box=None, header_style="bold")
        for stage, key in opened.names():
            manifest = opened.manifest(stage, key)
            if manifest is None:
                table.add_row(stage, key[:12], "", "", "damaged: run `verify`")
                continue
            size = sum(record.size for record in manifest.files.values()) / 1e6
            state = f"{manifest.git_commit[:9]}{'+' if manifest.git_dirty else ''}"
            table.add_row(stage, key[:12], f"{size:.1f}", f"{manifest.seconds:.1f}", state)
        for stage, key in opened.unfinished():
            table.add_row(stage, key[:12], "", "", "unfinished")
        Console(width=None if Console().is_terminal else 100).print(table)


@app.command()
def verify(store: StoreOption = None, params: ParamsNamingStore = None) -> None:
    """Check every byte of every entry; damaged ones are moved aside. Exit status 1 if there were any."""
    with user_errors(ExperimentSet, params):
        opened = _opened(store, params)
        names = opened.names()
        damaged = []
        for stage, key in names:
            with opened.locked(stage, key):
                if opened.verify(stage, key) is None:
                    damaged.append(key)
        say(f"{len(names) - len(damaged)} of {len(names)} entries are as they were written")
        if damaged:
            raise typer.Exit(1)


@app.command()
def gc(
    params: Annotated[
        list[Path], typer.Option("--params", help="Keep what these files describe (repeatable).")
    ],
    store: StoreOption = None,
    delete: Annotated[bool, typer.Option("--delete", help="Remove it, not only say what would go.")] = False,
) -> None:
    """List, and with --delete remove, what no experiment of the parameter files needs or was set aside."""
    keep: dict[str, set[str]] = {}
    named: set[str | None] = set()
    for path in params:
        with user_errors(ExperimentSet, path):
            parameters = load_parameters(path)
            named.add(parameters.store)
            for planned in plan(parameters.experiments()):
                for stage, key in planned.keys.items():
                    keep.setdefault(stage, set()).add(key)
    with user_errors():
        places = {store_location(store, name) for name in named}
        if len(places) > 1:
            listed = ", ".join(sorted(places))
            raise InputError(f"the parameter files name different stores ({listed}); choose one with --store")
        removed = open_store(places.pop(), say, existing=True).collect(keep, dry_run=not delete)
        for path_or_url in removed:
            say(f"{'removed' if delete else 'would remove'} {path_or_url}")
        if removed and not delete:
            say("nothing was removed; --delete does it")


@app.command("import")
def import_results(
    folder: Annotated[Path, typer.Argument(help="What benchmarks.paper_scale wrote.")],
    store: StoreOption = None,
    tracking_uri: TrackingOption = None,
    tracking: Annotated[bool, typer.Option(help="Record the runs in MLflow.")] = True,
) -> None:
    """Make entries, and tracked runs, of stages that benchmarks.paper_scale has computed."""
    from pipeline.imports import PARAMETERS, import_chain
    from pipeline.tracking import Tracker
    from pipeline.tracking_commands import record_plans

    with user_errors(ExperimentSet, folder / PARAMETERS):
        parameters = load_parameters(folder / PARAMETERS)
        opened = open_store(store_location(store, parameters.store), say)
        plans = import_chain(folder, parameters, opened, say)
        if tracking:
            tracker = Tracker(parameters.tracking, plans, store=opened, uri=tracking_uri)
            for line in record_plans(plans, opened, tracker):
                say(f"not there yet: {line}")
            if tracker.has_failed:
                raise typer.Exit(1)


def _opened(store: str | None, params: Path | None) -> Store:
    """The store that the command line, the environment or the parameter file names; it has to be there."""
    named = None if params is None else load_parameters(params).store
    return open_store(store_location(store, named), say, existing=True)
