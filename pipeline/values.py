"""How numbers and YAML files are read and shown.

Parameter files are YAML 1.2, as DVC reads and writes them. PyYAML follows YAML 1.1, in which `4:8` is the
number 248 (base sixty), `1e-3` a string and `no` false; the loader here resolves plain scalars by the
core schema of YAML 1.2 instead, so that DVC and the pipeline never see different values in one file.
"""

import re
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BeforeValidator, Field, PlainSerializer

from nenni_core.errors import InputError


class _Loader(yaml.SafeLoader):
    """A safe loader with the scalars of YAML 1.2 that refuses a key given twice."""

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

    def construct_whole(self, node: yaml.ScalarNode) -> int:
        """`017` is seventeen in YAML 1.2, and `0o17` fifteen."""
        text = str(self.construct_scalar(node))
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)


_Loader.yaml_implicit_resolvers = {}  # none of YAML 1.1
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_whole)


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9](_?[0-9])*|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+0123456789."),
    ),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), _first)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; `InputError` if there is no file, or something else in it."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InputError(f"cannot read the parameter file {str(path)!r}: {reason}") from error
    return parse_yaml(text, source=str(path))


def parse_yaml(text: str, *, source: str) -> dict[str, Any]:
    """The mapping written in `text`; `InputError` names `source` and the line if it is not one."""
    try:
        content = yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except yaml.MarkedYAMLError as error:
        where = f" line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise InputError(f"{source}{where}: not valid YAML: {error.problem}") from error
    except RecursionError:
        raise InputError(f"{source}: not a parameter file: it is nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{source}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InputError(f"{source}: expected sections such as `prepare:`, found {type(content).__name__}")
    return content


_QUOTIENT = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*/\s*([0-9]+(?:\.[0-9]+)?)\s*")


def parse_number(value: Any) -> Any:
    """A number, or one written as text or as a quotient ("8/255", read exactly); other values as they are.

    Booleans are refused: in YAML they are a slip of the pen, not a 1.
    """
    if isinstance(value, bool):
        raise ValueError(f"expected a number, found {str(value).lower()}")
    if not isinstance(value, str):
        return value
    quotient = _QUOTIENT.fullmatch(value)
    try:
        return float(Fraction(quotient[1]) / Fraction(quotient[2])) if quotient else float(value)
    except (ValueError, ZeroDivisionError, OverflowError):
        raise ValueError(f"expected a number such as 0.1 or 8/255, found {value!r}") from None


def show_pixels(value: float) -> float | str:
    """A pixel distance as people write it: 0.031372... is "8/255"; short decimals stay as they are.

    >>> show_pixels(8 / 255), show_pixels(0.3), show_pixels(0.0)
    ('8/255', 0.3, 0.0)
    """
    steps = round(value * 255)
    if len(repr(value)) > 6 and steps / 255 == value:
        return f"{steps}/255"
    return value


Number = Annotated[float, BeforeValidator(parse_number), Field(allow_inf_nan=False)]
"""A finite number; quotients such as `1/3` are read exactly."""

Whole = Annotated[int, BeforeValidator(parse_number)]
"""A whole number; booleans are refused."""

Pixels = Annotated[
    float,
    BeforeValidator(parse_number),
    PlainSerializer(show_pixels, when_used="json"),
    Field(ge=0, le=1, allow_inf_nan=False),
]
"""A distance in [0, 1] pixel units, written `8/255` in files."""


def as_list(value: Any) -> Any:
    """One value as a list of one, nothing as an empty list; lists as they are."""
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]
