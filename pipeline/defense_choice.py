"""Which defence a network is trained by: a name, or a name with hyperparameters of its own."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from functools import cache
from typing import TYPE_CHECKING, Any, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator

from nenni_core.errors import InputError, unknown_choice
from pipeline.values import Number, Whole

if TYPE_CHECKING:
    from nenni_core.defenses import Defense

_READ_AS: dict[Any, Any] = {
    float: Number,
    int: Whole,
    tuple[float, ...]: tuple[Number, ...],
    tuple[int, ...]: tuple[Whole, ...],
}
"""How values of a defence's fields are read from a parameter file."""


class DefenseChoice(BaseModel):
    """`trades`, or `{kind: trades, beta: 1}`: the kind, and all hyperparameters beside it.

    Those that are not given are the published ones; they are part of the dump, and so of the keys.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    kind: str = Field(default="adversarial", description="key of nenni_core.defenses.DEFENSES")

    @model_validator(mode="before")
    @classmethod
    def _completed(cls, value: Any) -> Any:
        if value is None or isinstance(value, str):
            value = {} if value is None else {"kind": value}
        if not isinstance(value, Mapping) or not isinstance(value.get("kind", ""), str):
            raise InputError(f"expected the name of a defence, or a section with a `kind`, found {value!r}")
        kind = value.get("kind", "adversarial")
        return {"kind": kind} | _settings(kind, {name: v for name, v in value.items() if name != "kind"})

    @property
    def settings(self) -> dict[str, Any]:
        """The hyperparameters."""
        return dict(self.model_extra or {})

    def defense(self) -> "Defense":
        """The defence itself."""
        return _made(self.kind, tuple(self.settings.items()))

    @property
    def unusual(self) -> dict[str, Any]:
        """The hyperparameters that are not the published ones."""
        usual = _published(self.kind).settings
        return {name: value for name, value in self.settings.items() if value != usual[name]}

    @property
    def label(self) -> str:
        """The kind, and the settings that are not the published ones: "trades-beta-1"."""
        return "-".join([self.kind, *(f"{name}-{_short(v)}" for name, v in self.unusual.items())])

    @property
    def title(self) -> str:
        """The same in words: "TRADES (Zhang et al., 2019), beta 1"."""
        settings = (f"{name.replace('_', ' ')} {_written(v)}" for name, v in self.unusual.items())
        return ", ".join([self.defense().title, *settings])

    @property
    def is_random(self) -> bool:
        """Whether two forward passes of the network differ."""
        return self.defense().is_random

    @property
    def base(self) -> "DefenseChoice | None":
        """By which defence a network is trained before this one starts; None if it starts afresh."""
        return _published(self.settings["base"]) if self.defense().starts_trained else None


@cache
def _published(kind: str) -> DefenseChoice:
    return DefenseChoice(kind=kind)


@cache
def _made(kind: str, settings: tuple[tuple[str, Any], ...]) -> "Defense":
    """A defence is immutable, and asked for with every key and label of every experiment."""
    from nenni_core.defenses import make_defense

    return make_defense(kind, **dict(settings))


def _settings(kind: Any, given: dict[str, Any]) -> dict[str, Any]:
    """All hyperparameters of a defence; `InputError` for what it does not have, or cannot have."""
    from nenni_core.defenses import DEFENSES, make_defense

    if kind not in DEFENSES:
        raise unknown_choice("defence", str(kind), list(DEFENSES))
    for name in given:
        if not isinstance(name, str):
            raise InputError(f"expected names of settings of the defence {kind!r}, found {name!r}")
    reader = _reader(kind, tuple(given))
    try:
        read = reader(**{name: given[name] for name in reader.model_fields})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name, message = str(first["loc"][0]), first["msg"].removeprefix("Value error, ")
        raise InputError(f"{name} is {given[name]!r}: {message[:1].lower()}{message[1:]}") from None
    return asdict(make_defense(kind, **(given | dict(read))))


@cache
def _reader(kind: str, given: tuple[str, ...]) -> type[BaseModel]:
    """What reads the given ones of a defence's settings; unknown names are left for the defence to name."""
    from nenni_core.defenses import DEFENSES

    hints = get_type_hints(DEFENSES[kind])
    known = {field.name: hints[field.name] for field in fields(DEFENSES[kind])}
    shape: dict[str, Any] = {
        name: (_READ_AS.get(known[name], known[name]), ...) for name in given if name in known
    }
    return create_model(f"{kind} settings", **shape)


def _short(value: Any) -> str:
    """A value inside a label: letters, digits, dots and signs."""
    if isinstance(value, tuple | list):
        return "+".join(map(_short, value))
    return f"{value:g}" if isinstance(value, float) else str(value).replace("_", "")


def _written(value: Any) -> str:
    """A value inside a title; the values of a tuple in brackets."""
    if isinstance(value, tuple | list):
        return f"({', '.join(map(_written, value))})"
    return f"{value:g}" if isinstance(value, float) else str(value).replace("_", " ")
