"""What all our commands share: options, one-line errors, progress, PyTorch's settings."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from pydantic import BaseModel, ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from nenni_core.errors import InputError, TrainingDiverged
from nenni_core.progress import ProgressCallback
from pipeline.problems import describe, shortened

Params = Annotated[Path, typer.Option("--params", help="Parameter file.")]
StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="FOLDER|URL",
        help="Where finished stages are kept; default: NENNI_STORE, else the parameter file's, else store/.",
    ),
]
TrackingOption = Annotated[
    str | None,
    typer.Option(
        "--tracking-uri",
        metavar="URI",
        help="Where MLflow is; default: MLFLOW_TRACKING_URI, else the parameter file's, else mlflow.db here.",
    ),
]

SPEED_PERIOD = 3600.0
"""Seconds over which a bar measures its speed: one batch of an attack can take minutes."""

OWN_WORDS = "Value error, "
"""What pydantic puts before a message that is not its own."""
NO_TELEMETRY = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "DVC_NO_ANALYTICS": "true",
}


def silence_telemetry() -> None:
    """Libraries imported after this call send nothing to anybody."""
    os.environ.update(NO_TELEMETRY)


class CommandLine(typer.Typer):
    """Commands whose options, where they are wrong, are told in one line `error: ...`, with status 2."""

    def __call__(self, *args: Any, **settings: Any) -> NoReturn:
        """Run the command that the process was called with, and end it."""
        try:
            status = super().__call__(*args, standalone_mode=False, **settings)
        except typer.TyperException as error:
            say(f"error: {_wrong_option(error)}")
            status = error.exit_code
        sys.exit(status)


def _wrong_option(error: typer.TyperException) -> str:
    """The option, what was expected, and the value, in one line."""
    problem = error.__cause__
    if isinstance(error, typer.BadParameter) and isinstance(problem, ValidationError):
        where = error.format_message().removeprefix("Invalid value for ").partition(": ")[0].replace("'", "")
        if error.message.startswith(OWN_WORDS):  # of the option's choices: it names them, and the value
            return shortened(f"{where}: {error.message.removeprefix(OWN_WORDS).rstrip('.')}")
        expected = error.message.removeprefix("Input should be ").partition(", ")[0]
        return shortened(f"{where}: expected {expected}, found {problem.errors()[0]['input']!r}")
    text = " ".join(error.format_message().split()).rstrip(".")
    return shortened(f"{text[0].lower()}{text[1:]} (see --help)")


def new_app(help_text: str) -> CommandLine:
    """A command line in our style: no shell-completion options, plain tracebacks for bugs."""
    return CommandLine(
        help=help_text, add_completion=False, pretty_exceptions_enable=False, no_args_is_help=False
    )


def say(line: str) -> None:
    """One line for the user; standard error, so that standard output stays for results."""
    print(line, file=sys.stderr, flush=True)


@contextmanager
def user_errors(model: type[BaseModel] | None = None, source: Path | None = None) -> Iterator[None]:
    """Show mistakes of the user as lines, not tracebacks.

    `InputError`, `ValidationError` (of `model`, read from `source`) and `OSError` end the process with status
    2, `TrainingDiverged` with 1, Ctrl-C with 130. Anything else is a bug and keeps its traceback.
    """
    try:
        yield
    except ValidationError as error:
        if model is None:
            raise
        for line in describe(error, model):
            say(f"error: {source}: {line}" if source else f"error: {line}")
        raise typer.Exit(2) from None
    except InputError as error:
        say(f"error: {error}")
        raise typer.Exit(2) from None
    except TrainingDiverged as error:
        say(f"error: {error}")
        raise typer.Exit(1) from None
    except OSError as error:
        # a folder that is a file, that may not be written to, that has no space left
        say(f"error: {f'{str(error.filename)!r}: ' if error.filename else ''}{error.strerror or error}")
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        say("interrupted; the same command continues where this one stopped")
        raise typer.Exit(130) from None


@contextmanager
def progress_display() -> Iterator[ProgressCallback]:
    """A `ProgressCallback`: a bar with the time left on a terminal, now and then a line elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield PlainProgress(say)
        return
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        speed_estimate_period=SPEED_PERIOD,
    )
    with bar:
        yield _BarProgress(bar)


class _BarProgress:
    """One bar per kind of work; a finished one goes."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, description: str, completed: int, total: int) -> None:
        task = self._tasks.get(description)
        if task is None:
            task = self._tasks[description] = self._bar.add_task(description, total=total)
        self._bar.update(task, completed=completed, total=total)
        if completed >= total:
            self._bar.remove_task(task)
            del self._tasks[description]


class PlainProgress:
    """A line per kind of work when a quarter of a minute has gone by, with the remaining time."""

    def __init__(
        self,
        write: Callable[[str], None],
        *,
        every: float = 15.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._write = write
        self._every = every
        self._clock = clock
        self._begun: dict[str, tuple[float, int]] = {}
        self._shown = clock()

    def __call__(self, description: str, completed: int, total: int) -> None:
        now = self._clock()
        started, already = self._begun.setdefault(description, (now, completed))
        if completed >= total:
            del self._begun[description]
        elif now - self._shown >= self._every and completed > already:
            self._shown = now
            remaining = (now - started) / (completed - already) * (total - completed)
            self._write(f"  {description}: {completed} of {total}, about {duration(remaining)} left")


def duration(seconds: float) -> str:
    """Seconds as people say them: "90 s", "12 min", "2.5 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.1f} h"
