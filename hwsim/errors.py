"""What a user can do wrong."""

from collections.abc import Iterable
from difflib import get_close_matches


class InputError(ValueError):
    """A value given by the user is wrong: one line that names it and what was expected."""


def unknown_choice(kind: str, value: str, choices: Iterable[str]) -> InputError:
    """An `InputError` for a name that is not among `choices`, with the nearest one named."""
    known = list(choices)
    nearest = get_close_matches(value, known, n=1)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    return InputError(f"unknown {kind} {value!r}; {hint}known: {', '.join(known)}")
