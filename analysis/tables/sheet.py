"""A table as text, whatever format it is written in."""

from dataclasses import dataclass

BEST, SECOND = 1, 2


@dataclass(frozen=True, kw_only=True)
class SheetCell:
    """`main` is the number or word; `details` stand below it in small letters."""

    main: str = ""
    details: tuple[str, ...] = ()
    rank: int = 0
    """`BEST` is set bold, `SECOND` underlined."""
    hover: str = ""
    """How the number came about: what a reader sees who points at it."""
    is_gap: bool = False
    """Whether it says why there is no number."""


@dataclass(frozen=True, kw_only=True)
class SheetLine:
    """A row; `is_derived` where it says something about other rows and is no method itself.

    Such a row speaks of the one above it, or with `of_all` of all rows, below which it stays.
    """

    label: str
    cells: tuple[SheetCell, ...]
    details: tuple[str, ...] = ()
    is_derived: bool = False
    of_all: bool = False


@dataclass(frozen=True, kw_only=True)
class SheetBlock:
    """Rows that belong together, with a title if there are several blocks."""

    title: str
    lines: tuple[SheetLine, ...]


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A table; `headings` are those of all columns, that of the labels first.

    `groups` are (title, columns) of what stands above the headings after the first, or empty. `notes` are
    sentences in plain text, with commands between backticks.
    """

    name: str
    """How its files are called."""
    title: str
    caption: str
    headings: tuple[str, ...]
    blocks: tuple[SheetBlock, ...]
    groups: tuple[tuple[str, int], ...] = ()
    notes: tuple[str, ...] = ()
