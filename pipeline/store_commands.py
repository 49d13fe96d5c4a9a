"""`python -m pipeline.store ls|verify|gc`: look at a store, check it, tidy it."""

from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from nenni_core.errors import InputError
from pipeline.command_line import StoreFolder, new_app, say, user_errors
from pipeline.experiment import ExperimentSet, load_parameters
from pipeline.runner import plan
from pipeline.store import MANIFEST, Manifest, Store

app = new_app("Look at the store of finished stages, check it, tidy it.")


def main() -> None:
    """Run the command line."""
    app()


def _store(root: Path) -> Store:
    if not root.is_dir():
        raise InputError(f"there is no store at {str(root)!r}")
    return Store(root, say)


@app.command("ls")
def list_entries(store: StoreFolder = Path("store")) -> None:
    """List what is finished and what was begun, with size, seconds and commit."""
    with user_errors():
        opened = _store(store)
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
        opened = _store(store)
        names = opened.names()
        damaged = [name for name in names if opened.find(*name) is None]
        say(f"{len(names) - len(damaged)} of {len(names)} entries are as they were written")
        if damaged:
            raise typer.Exit(1)


@app.command()
def gc(
    params: Annotated[
        list[Path], typer.Option("--params", help="Keep what these files describe (repeatable).")
    ],
    store: StoreFolder = Path("store"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
) -> None:
    """Remove every entry that no experiment of the given parameter files needs, and what was set aside."""
    keep: dict[str, set[str]] = {}
    for path in params:
        with user_errors(ExperimentSet, path):
            for planned in plan(load_parameters(path).experiments()):
                for stage, key in planned.keys.items():
                    keep.setdefault(stage, set()).add(key)
    with user_errors():
        for path in _store(store).collect(keep, dry_run=dry_run):
            say(f"{'would remove' if dry_run else 'removed'} {path}")
