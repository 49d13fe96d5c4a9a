"""Validation errors as lines that a user can act on."""

import re
import types
import typing
from difflib import get_close_matches

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

LONGEST = 300
"""Characters of a line: a wrong value can be of any size."""


def describe(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """One line per problem: the key, what is wrong, the nearest valid choice.

    `model` is the class that was validated; its fields say which keys exist.
    """
    return [shortened(_line(problem, model)) for problem in error.errors(include_url=False)]


def shortened(line: str) -> str:
    """`line`, cut if it is longer than `LONGEST`."""
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 3]}..."


def _line(problem: ErrorDetails, model: type[BaseModel]) -> str:
    where = ".".join(str(part) for part in problem["loc"] if part != "[key]")
    context = problem.get("ctx", {})
    value = problem["input"]
    match problem["type"]:
        case "extra_forbidden":
            *section, key = problem["loc"]
            return f"unknown key {where!r}; {_nearest(str(key), _keys_at(model, section))}"
        case "missing":
            return f"missing key {where!r}"
        case "literal_error":
            choices = re.findall(r"'([^']*)'", str(context.get("expected", "")))
            return f"{where}: unknown value {value!r}; {_nearest(str(value), choices)}"
        case "value_error":
            prefix = f"{where}: " if where else ""
            return f"{prefix}{context['error']}"
        case "model_type" | "dict_type":
            return f"{where}: expected a section with keys, found {value!r}"
        case "string_pattern_mismatch":
            return f"{where}: {value!r} is not made of a-z, 0-9 and _"
        case _:
            message = problem["msg"].removeprefix("Input should be ")
            expected = message if message != problem["msg"] else f"valid ({message})"
            return f"{where}: expected {expected.removeprefix('a ')}, found {value!r}"


def _nearest(value: str, choices: list[str]) -> str:
    close = get_close_matches(value, choices, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}known: {', '.join(choices)}"


def _keys_at(model: type[BaseModel], location: list[int | str]) -> list[str]:
    """The keys that may stand at `location` of a configuration of class `model`."""
    current: type[BaseModel] | None = model
    for part in location:
        if current is not None and isinstance(part, str) and part in current.model_fields:
            inner = _model_in(current.model_fields[part].annotation)
            current = inner or current
    return list(current.model_fields) if current is not None else []


def _model_in(annotation: object) -> type[BaseModel] | None:
    """The configuration class inside an annotation such as `X`, `X | None` or `dict[str, X]`."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return annotation if issubclass(annotation, BaseModel) else None
    for part in typing.get_args(annotation):
        found = _model_in(part)
        if found is not None:
            return found
    return None
