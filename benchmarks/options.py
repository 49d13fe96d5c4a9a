"""Options of the benchmarks that are read by the standard library alone."""

import argparse
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """Tells in one line `error: ...` which option is wrong, with status 2."""

    def error(self, message: str) -> NoReturn:
        """End the process; a newline in a value does not make two lines."""
        self.exit(2, f"error: {' '.join(message.split())}\n")


def seed(text: str) -> int:
    """A whole number from 0 on; `argparse.ArgumentTypeError` for anything else."""
    return _whole(text, 0)


def count(text: str) -> int:
    """A whole number from 1 on; `argparse.ArgumentTypeError` for anything else."""
    return _whole(text, 1)


def _whole(text: str, least: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise argparse.ArgumentTypeError(f"expected a whole number from {least} on, found {text!r}")
    return number
