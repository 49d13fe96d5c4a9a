"""Mistakes of the user end in one line, whoever finds them: the parser of options or the simulator."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import typer
from pydantic import ValidationError

from hwsim.errors import InputError


def say(line: str) -> None:
    """One line for the user; standard error, so that standard output stays for results."""
    print(line, file=sys.stderr, flush=True)


class CommandLine(typer.Typer):
    """Commands whose options, where they are wrong, are told in one line `error: ...`, with status 2."""

    def __call__(self, *args: Any, **settings: Any) -> NoReturn:
        """Run the command that the process was called with, and end it."""
        try:
            status = super().__call__(*args, standalone_mode=False, **settings)
        except typer.TyperException as error:
            if error.format_message():  # there is none where the help was shown instead
                say(f"error: {describe(error)}")
            status = error.exit_code
        sys.exit(status)


def describe(error: typer.TyperException) -> str:
    """What is wrong with an option, in one line: the option, what was expected, and the value."""
    problem = error.__cause__
    if isinstance(error, typer.BadParameter) and isinstance(problem, ValidationError):
        expected = error.message.removeprefix("Input should be ").partition(", ")[0]
        where = error.format_message().removeprefix("Invalid value for ").partition(": ")[0].replace("'", "")
        return f"{where}: expected {expected}, found {problem.errors()[0]['input']!r}"
    text = " ".join(error.format_message().split()).rstrip(".")
    return f"{text[0].lower()}{text[1:]} (see --help)"


@contextmanager
def user_errors() -> Iterator[None]:
    """Mistakes of the user end in one line and status 2, Ctrl-C in 130; all else is a bug."""
    try:
        yield
    except InputError as error:
        say(f"error: {error}")
        raise typer.Exit(2) from None
    except OSError as error:
        say(f"error: {f'{str(error.filename)!r}: ' if error.filename else ''}{error.strerror or error}")
        raise typer.Exit(2) from None
    except MemoryError:
        say("error: there is not enough memory; expected smaller layers or fewer images")
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        say("interrupted")
        raise typer.Exit(130) from None
