"""YAML files that a user writes, and what is wrong with them in one line."""

from collections.abc import Collection
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from hwsim.errors import InputError

Model = TypeVar("Model", bound=BaseModel)

LONGEST_VALUE = 60
"""Characters of a wrong value that a message repeats."""


class _Loader(yaml.SafeLoader):
    """A safe loader that refuses a key given twice, of which YAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def read_model(path: Path, model: type[Model]) -> Model:
    """The YAML file as a `model`; `InputError` names the file, the key, the value and what was expected."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except OSError as error:
        raise InputError(f"cannot read {str(path)!r}: {error.strerror}") from error
    except yaml.MarkedYAMLError as error:
        where = f" line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise InputError(f"{path}{where}: not valid YAML: {error.problem}") from error
    except RecursionError:
        raise InputError(f"{path}: it is nested too deeply") from None
    except (yaml.YAMLError, ValueError, TypeError) as error:
        # ValueError: no UTF-8 text or an impossible date; TypeError: a list as a key
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected keys with values, found {_shown(content)}")
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first, *others = error.errors(include_url=False)
        more = f" (and {len(others)} more)" if others else ""
        raise InputError(f"{path}: {_line(first, model)}{more}") from error


def _line(problem: ErrorDetails, model: type[BaseModel]) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    found = _shown(problem["input"])
    context = problem.get("ctx", {})
    match problem["type"]:
        case "missing":
            return f"missing key {where!r}"
        case "extra_forbidden":
            at_top = len(problem["loc"]) == 1
            return f"unknown key {where!r}{_nearest(where, model.model_fields) if at_top else ''}"
        case "union_tag_not_found":
            return f"{where}: expected a section with the key {context['discriminator']}, found {found}"
        case "union_tag_invalid":
            key = str(context["discriminator"]).strip("'")
            return f"{where}.{key}: expected {context['expected_tags']}, found {context['tag']!r}"
        case "value_error":
            return f"{where}: {context['error']}" if where else str(context["error"])
        case "model_type" | "dict_type":
            return f"{where}: expected a section with keys, found {found}"
        case _:
            message = problem["msg"].removeprefix("Input should be ")
            expected = message if message != problem["msg"] else f"something else ({message})"
            return f"{where}: expected {expected}, found {found}"


def _nearest(key: str, known: Collection[str]) -> str:
    close = get_close_matches(key, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."
