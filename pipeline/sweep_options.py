"""The options by which commands name the experiments of a grid."""

import json
import shlex
from typing import Annotated, Any

import typer

from nenni_core.errors import InputError
from pipeline.grids import grid_names
from pipeline.sweep_records import Asked
from pipeline.values import parse_yaml

GridOption = Annotated[
    str | None, typer.Option("--grid", help=f"A grid by name, or a file: {', '.join(grid_names())}.")
]
WhereOption = Annotated[
    list[str] | None,
    typer.Option("--where", help="Only experiments with this value, such as model=resnet18 (repeatable)."),
]
DataOption = Annotated[
    list[str] | None,
    typer.Option("--data", help="Where a data set is, such as cifar10=FOLDER (repeatable)."),
]
SeedsOption = Annotated[
    int | None, typer.Option("--seeds", min=1, help="Seeds 0 to N-1 instead of the grid's.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Another value, such as pretrain.epochs=30 (repeatable)."),
]


def asked_for(
    grid: str | None,
    where: list[str] | None = None,
    data: list[str] | None = None,
    *,
    seeds: int | None = None,
    override: list[str] | None = None,
) -> Asked | None:
    """What the options ask for; None without `--grid`. `InputError` if one is not of its form."""
    if grid is None:
        if where or data or seeds is not None or override:
            raise InputError(
                "--where, --data, --seeds and --set are about a grid; expected --grid beside them"
            )
        return None
    if seeds is not None and any(text.startswith("seed=") for text in override or []):
        raise InputError("--seeds and --set seed=... both say the seeds; expected one of them")
    return Asked(
        grid=grid,
        where=tuple(where or ()),
        seeds=seeds,
        override={key: _value(text) for key, text in _pairs("--set", override or []).items()},
        data=_pairs("--data", data or []),
    )


def options_of(asked: Asked) -> str:
    """The options that ask for the same, as a command line has them."""
    words = ["--grid", asked.grid]
    words += [word for condition in asked.where for word in ("--where", condition)]
    words += [word for name, path in asked.data.items() for word in ("--data", f"{name}={path}")]
    words += [] if asked.seeds is None else ["--seeds", str(asked.seeds)]
    words += [
        word for key, value in asked.override.items() for word in ("--set", f"{key}={json.dumps(value)}")
    ]
    return shlex.join(words)


def _pairs(option: str, texts: list[str]) -> dict[str, str]:
    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise InputError(f"{option} {text!r}: expected name=value")
        pairs[name] = value
    return pairs


def _value(text: str) -> Any:
    """A value as a parameter file would give it."""
    return parse_yaml(f"value: {text}", source=f"--set ...={text}")["value"]
