"""`python -m pipeline.store ls|verify|gc`: look at a store, check it, tidy it."""

from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from pipeline.command_line import StoreFolder, new_app, say, user_errors
from pipeline.experiment import ExperimentSet, load_parameters
from pipeline.runner import plan
from pipeline.store import MANIFEST, Manifest, Store

app = new_app("Look at the store of finished stages, check it, tidy it.")


def main() -> None:
    """Run the command line."""
    app()


@app.command("ls")
def list_entries(store: StoreFolder = Path("store")) -> None:
    """List what is finished and what was begun, with size, seconds and commit."""
    with user_errors():
        opened = Store.existing(store, say)
        table = Table("stage", "key", "MB", "seconds", "commit", box=None, header_style="bold")
        for stage, key in opened.names():
            path = opened.entry_path(stage, key)
            try:
                manifest = Manifest.model_validate_json((path / MANIFEST).read_bytes())
            except (OSError, ValidationError):
                table.add_row(stage, key[:12], "", "", "damaged: run `verify`")
                continue
            size = sum(record.size for record in manifest.files.values()) / 1e6
            state = f"{manifest.git_commit[:9]}{'+' if manifest.git_dirty else ''}"
            table.add_row(stage, key[:12], f"{size:.1f}", f"{manifest.seconds:.1f}", state)
        for stage, key in opened.unfinished():
            table.add_row(stage, key[:12], "", "", "unfinished")
        Console(width=None if Console().is_terminal else 100).print(table)


@app.command()
def verify(store: StoreFolder = Path("store")) -> None:
    """Check every byte of every entry; damaged ones are moved aside. Exit status 1 if there were any."""
    with user_errors():
        opened = Store.existing(store, say)
        names = opened.names()
        damaged = []
        for stage, key in names:
            with opened.locked(stage, key):
                if opened.recover(stage, key) is None:
                    damaged.append(key)
        say(f"{len(names) - len(damaged)} of {len(names)} entries are as they were written")
        if damaged:
            raise typer.Exit(1)


@app.command()
def gc(
    params: Annotated[
        list[Path], typer.Option("--params", help="Keep what these files describe (repeatable).")
    ],
    store: StoreFolder = Path("store"),
    delete: Annotated[bool, typer.Option("--delete", help="Remove it, not only say what would go.")] = False,
) -> None:
    """List, and with --delete remove, what no experiment of the parameter files needs or was set aside."""
    keep: dict[str, set[str]] = {}
    for path in params:
        with user_errors(ExperimentSet, path):
            for planned in plan(load_parameters(path).experiments()):
                for stage, key in planned.keys.items():
                    keep.setdefault(stage, set()).add(key)
    with user_errors():
        removed = Store.existing(store, say).collect(keep, dry_run=not delete)
        for path in removed:
            say(f"{'removed' if delete else 'would remove'} {path}")
        if removed and not delete:
            say("nothing was removed; --delete does it")
