"""Errors that a user can cause and mend."""


class InputError(ValueError):
    """A value given by the user is wrong.

    The message is one line: it names the value, what was expected and, where there is one, the
    nearest valid choice. Command lines print it and exit with status 2, without a traceback.
    """


def unknown_choice(kind: str, value: str, choices: list[str]) -> InputError:
    """An `InputError` for a name that is not among `choices`, with the nearest one named.

    >>> str(unknown_choice("model", "resnet81", ["resnet18", "small_resnet"]))
    "unknown model 'resnet81'; did you mean 'resnet18'? known: resnet18, small_resnet"
    """
    from difflib import get_close_matches

    nearest = get_close_matches(value, choices, n=1)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    return InputError(f"unknown {kind} {value!r}; {hint}known: {', '.join(choices)}")


def require(name: str, value: object, holds: bool, expected: str) -> None:
    """Raise `InputError` unless the value called `name` `holds` what is `expected`, such as "above 0".

    >>> require("beta", -1.0, False, "at least 0")
    Traceback (most recent call last):
    nenni_core.errors.InputError: beta is -1.0; expected a value at least 0
    """
    if not holds:
        raise InputError(f"{name} is {value!r}; expected a value {expected}")


class TrainingDiverged(RuntimeError):
    """A loss or a parameter is no longer finite; the message says where and what to change."""
