"""Shapes of the layers that a network is made of, as the simulator sees them."""

import csv
from dataclasses import asdict, dataclass, fields
from math import ceil
from pathlib import Path

from hwsim.errors import InputError, unknown_choice

NETWORKS = Path(__file__).parent / "networks"
"""Tables of networks that come with the simulator; `.csv` files, one line for each layer."""

LARGEST = 10**6
"""Largest count of a layer; products of larger ones would be no size of an array."""

PROJECTION_RATIO = 4
"""Inputs of a layer for each row of its random projection (paper section 3.1: a rank of a quarter)."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A convolution; a linear layer is one with a 1 x 1 kernel on a 1 x 1 map.

    All numbers are counts from 1 to `LARGEST`, the rank apart; anything else is an `InputError`.
    """

    name: str
    in_channels: int
    out_channels: int
    kernel_height: int
    kernel_width: int
    in_height: int
    in_width: int
    out_height: int
    out_width: int
    groups: int = 1
    rank: int = 0
    """Rows k of the projection of one group; 0 stands for a quarter of its inputs, rounded up."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            least, most = {"rank": (0, LARGEST**2)}.get(field.name, (1, LARGEST))
            if field.name != "name" and not least <= value <= most:
                raise InputError(
                    f"layer {self.name!r}: {field.name} is {value}; expected a count from {least} to {most}"
                )
        for name in ("in_channels", "out_channels"):
            if getattr(self, name) % self.groups:
                raise InputError(
                    f"layer {self.name!r}: {name} {getattr(self, name)} does not divide into "
                    f"{self.groups} groups"
                )
        if self.rank == 0:
            object.__setattr__(self, "rank", ceil(self.inputs_per_output / PROJECTION_RATIO))

    @property
    def inputs_per_output(self) -> int:
        """Length d of the dot product of one output."""
        return self.in_channels // self.groups * self.kernel_height * self.kernel_width

    @property
    def outputs_per_group(self) -> int:
        """Output channels of one group."""
        return self.out_channels // self.groups

    @property
    def positions(self) -> int:
        """Output positions of one image."""
        return self.out_height * self.out_width

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the dense layer for one image."""
        return self.positions * self.out_channels * self.inputs_per_output

    @property
    def input_values(self) -> int:
        """Values of one image's input map."""
        return self.in_channels * self.in_height * self.in_width

    @property
    def output_values(self) -> int:
        """Values of one image's output map."""
        return self.out_channels * self.positions

    @property
    def projection_nonzeros(self) -> int:
        """Entries of one group's projection P that are not 0: a third of k * d is expected, at least one."""
        return max(1, round(self.rank * self.inputs_per_output / 3))


def network_names() -> list[str]:
    """Networks that come with the simulator."""
    return sorted(path.stem for path in NETWORKS.glob("*.csv"))


def load_network(name_or_path: str | Path) -> tuple[Layer, ...]:
    """The layers of a network that comes with the simulator, or of a CSV file, in the order they run.

    Columns are the fields of `Layer`; `groups` and `rank` may be missing or empty.

    Raises:
        InputError: no such network or file, or a line that is no layer.
    """
    path = Path(name_or_path)
    if path.suffix != ".csv":
        if str(name_or_path) not in network_names():
            raise unknown_choice("network", str(name_or_path), [*network_names(), "or a .csv file"])
        path = NETWORKS / f"{name_or_path}.csv"
    elif not path.is_file():
        raise InputError(f"{str(path)!r} is not a file; expected a table of layers (.csv)")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            _check_columns(path, list(reader.fieldnames or ()))
            layers = tuple(_layer(path, reader.line_num, row) for row in reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a table of layers (.csv): {error}") from None
    if not layers:
        raise InputError(f"{path}: has no layers; expected one line for each after the heading")
    names = [layer.name for layer in layers]
    for name in names:
        if names.count(name) > 1:
            raise InputError(
                f"{path}: {names.count(name)} layers are called {name!r}; expected different names"
            )
    return layers


def save_network(layers: tuple[Layer, ...], path: Path) -> None:
    """Write a table that `load_network` reads."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Layer)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(layer) for layer in layers)


def _check_columns(path: Path, columns: list[str]) -> None:
    known = [field.name for field in fields(Layer)]
    for column in columns:
        if column not in known:
            raise InputError(f"{path}: {unknown_choice('column', column, known)}")
        if columns.count(column) > 1:
            raise InputError(
                f"{path}: column {column!r} is there {columns.count(column)} times; expected once"
            )
    for column in known:
        if column not in columns and column not in ("groups", "rank"):
            raise InputError(f"{path}: missing column {column!r}; found: {', '.join(columns) or 'nothing'}")


def _layer(path: Path, line: int, row: dict[str, str | None]) -> Layer:
    values: dict[str, int] = {}
    if None in row:
        raise InputError(f"{path}, line {line}: has more values than columns; expected {len(row) - 1}")
    for column, text in row.items():
        if column == "name" or (column in ("groups", "rank") and not text):
            continue
        if text is None or not text.strip().isdecimal():
            raise InputError(f"{path}, line {line}: {column} is {text!r}; expected a whole number")
        values[column] = int(text)
    try:
        return Layer(name=row["name"] or "", **values)
    except InputError as error:
        raise InputError(f"{path}, line {line}: {error}") from None
