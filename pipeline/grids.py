"""Grid files: from a few lines of YAML to all experiments of a sweep.

A grid file is a parameter file with what makes it a grid:

- `extends`: parameter or grid files whose sections it starts from, later ones over earlier ones, its own
  last; a key of a section replaces that key whole (so `attack: {attacks: ...}` replaces the protocol).
- `axes`: dotted keys and lists of values, such as `prepare.dataset: [cifar10, cifar100]` and `seed: [0, 1]`;
  every combination is one set of experiments. Keys that are lists in a parameter file anyway stay there.
- `blocks`: parts with sections, axes, `extends` and `until` of their own over the file's, where not
  everything goes with everything.
- `include`: other grids whose experiments are added as they are.
- `until`: the last stages wanted, where not all are.

Grids that come with the project are called by name: `pipeline/grids/<name>.yaml`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError

from nenni_core.data import DATASETS
from nenni_core.errors import InputError, unknown_choice
from pipeline.config import Section, Tracking
from pipeline.experiment import Experiment, ExperimentSet, Seeded
from pipeline.problems import describe
from pipeline.values import as_list, read_yaml

GRIDS = Path(__file__).parent / "grids"
SECTIONS = tuple(ExperimentSet.model_fields)
OF_BLOCKS = ("axes", "extends", "until")
"""What a block may say beside sections."""
MOST_COMBINATIONS = 1_000_000
"""A grid above is a slip of the pen, and would fill the memory before anybody notices."""

Sections = dict[str, Any]
Names = Annotated[tuple[str, ...], BeforeValidator(as_list)]
FinalStage = Literal["attack", "simulate", "finetune", "distill", "defend", "pretrain", "prepare"]
Axes = dict[str, list[Any]]


class GridFile(Section):
    """What a grid file says beside the sections of a parameter file."""

    description: str = Field(default="", description="what the grid is for, in a sentence")
    extends: Names = Field(default=(), description="files to start from, relative to this one")
    include: Names = Field(default=(), description="names or files of grids that are added")
    until: Annotated[tuple[FinalStage, ...], BeforeValidator(as_list)] = Field(
        default=("attack", "simulate"), description="the last stages wanted"
    )
    axes: Axes = Field(default_factory=dict, description="dotted keys and their values")
    blocks: tuple[dict[str, Any], ...] = Field(default=(), description="parts with sections of their own")


@dataclass(frozen=True)
class Cell:
    """One experiment of a grid, and which of its stages are wanted."""

    experiment: Experiment
    until: tuple[str, ...]


@dataclass(frozen=True)
class Grid:
    """The experiments of a grid file in the order written; parts that overlap give one more than once."""

    name: str
    description: str
    cells: tuple[Cell, ...]
    tracking: Tracking
    """How its runs are recorded: as an experiment of its own name, if it does not say another."""
    store: str | None
    """Where results go, if the file says it."""


def grid_names() -> list[str]:
    """The grids that come with the project."""
    return sorted(path.stem for path in GRIDS.glob("*.yaml"))


def grid_path(name: str) -> Path:
    """The file of a grid, by name or by path; `InputError` if there is none."""
    if name.endswith((".yaml", ".yml")) or "/" in name:
        return Path(name)
    if name not in grid_names():
        raise unknown_choice("grid", name, grid_names())
    return GRIDS / f"{name}.yaml"


def load_grid(
    name: str,
    *,
    override: Mapping[str, Any] | None = None,
    seeds: Sequence[int] | None = None,
    data: Mapping[str, str] | None = None,
) -> Grid:
    """The grid called `name`, or in the file of that path.

    In all its parts, dotted keys `override` are set, `seeds` replace its own, and `data` says where the
    archive or the folder of a data set is. Raises `InputError`, one line that names the file, the
    combination and the nearest valid choice.
    """
    path = grid_path(name)
    loader = _Loader(dict(override or {}), seeds, data or {})
    cells = tuple(loader.cells(path, ()))
    if not cells:
        raise InputError(f"{path}: no experiment has one of the stages of `until`")
    file = loader.read(path)
    return Grid(path.stem, file.about.description, cells, loader.tracking(path), file.sections.get("store"))


class _Tracked(Section):
    tracking: Tracking


@dataclass(frozen=True)
class _File:
    about: GridFile
    own: Sections
    """The sections that are written in it."""
    sections: Sections
    """With those of the files that it extends."""


class _Loader:
    """Reads a grid file and those that it names; a file is read once."""

    def __init__(
        self, override: dict[str, Any], seeds: Sequence[int] | None, data: Mapping[str, str]
    ) -> None:
        for key in override:
            check_key(key)
        for dataset in data:
            if dataset not in DATASETS:
                raise unknown_choice("data set", dataset, list(DATASETS))
        self._override = override
        self._seeds = seeds
        self._data = data
        self._read: dict[Path, _File] = {}

    def cells(self, path: Path, above: tuple[Path, ...]) -> Iterator[Cell]:
        """All experiments of a file, its own first."""
        _refuse_circle(path, above)
        file = self.read(path)
        about = file.about
        blocks = about.blocks or (({},) if set(file.sections) - {"tracking", "seed", "store"} else ())
        if not blocks and (about.axes or not about.include):
            raise InputError(
                f"{path}: no experiments of its own: expected sections such as `prepare:`, "
                "or `include:` without `axes:`"
            )
        for number, block in enumerate(blocks, start=1):
            source = f"{path}: block {number}" if about.blocks else str(path)
            own = {name: block[name] for name in OF_BLOCKS if name in block}
            part: GridFile = _checked(GridFile, {"until": about.until} | own, source)
            merged = file.sections
            for name in part.extends:
                merged = _merged(merged, self.read(_beside(path, name), (*above, path)).sections)
            merged = _merged(merged, _sections(block, source, set(OF_BLOCKS)))
            axes = about.axes | _checked_axes(part.axes, source)
            yield from self._expand(merged, axes, part.until, source)
        for name in about.include:
            yield from self.cells(_beside(path, name), (*above, path))

    def tracking(self, path: Path) -> Tracking:
        """The section `tracking` of a grid, whose runs are not those of the files that it extends."""
        file = self.read(path)
        own = file.own.get("tracking")
        named = isinstance(own, dict) and "experiment" in own
        sections = file.sections if named else _with(file.sections, "tracking.experiment", path.stem)
        for key, value in self._override.items():
            sections = _with(sections, key, value)
        found: Tracking = _checked(_Tracked, {"tracking": sections["tracking"]}, str(path)).tracking
        return found

    def read(self, path: Path, above: tuple[Path, ...] = ()) -> _File:
        """What a file says, with the sections of those that it extends."""
        _refuse_circle(path, above)
        if path not in self._read:
            content = read_yaml(path)
            fields = {name: content[name] for name in GridFile.model_fields if name in content}
            about = _checked(GridFile, fields, str(path))
            _checked_axes(about.axes, str(path))
            sections: Sections = {}
            for name in about.extends:
                sections = _merged(sections, self.read(_beside(path, name), (*above, path)).sections)
            own = _sections(content, str(path), set(GridFile.model_fields))
            self._read[path] = _File(about, own, _merged(sections, own))
        return self._read[path]

    def _expand(self, sections: Sections, axes: Axes, until: tuple[str, ...], source: str) -> Iterator[Cell]:
        if self._seeds is not None:
            axes = axes | {"seed": list(self._seeds)}
        axes = {key: values for key, values in axes.items() if key not in self._override}
        seeds = axes.get("seed")
        count = prod(len(values) for values in axes.values())
        if count > MOST_COMBINATIONS:
            raise InputError(f"{source}: axes: {count} combinations; expected at most {MOST_COMBINATIONS}")
        axes = {key: values for key, values in axes.items() if key != "seed"}
        for values in product(*axes.values()):
            chosen = dict(zip(axes, values, strict=True))
            combined = sections
            for key, value in (chosen | self._override).items():
                combined = _with(combined, key, value)
            prepare = combined.get("prepare")
            dataset = prepare.get("dataset") if isinstance(prepare, dict) else None
            if isinstance(dataset, str) and dataset in self._data:
                combined = _with(combined, "prepare.path", self._data[dataset])
                prepare = combined["prepare"]
            if isinstance(prepare, dict) and isinstance(path := prepare.get("path"), str):
                # workers of a cluster, and whoever resumes, may be in another folder
                combined = _with(combined, "prepare.path", str(Path(path).absolute()))
            where = ", ".join(f"{key}={value}" for key, value in chosen.items())
            expanded = _checked(ExperimentSet, combined, f"{source}: {where}" if where else source)
            experiments = expanded.experiments()
            # what differs in the seed alone shares all sections: that is fast, here and for keys
            for seed in [expanded.seed] if seeds is None else seeds:
                checked = _checked(Seeded, {"seed": seed}, source).seed
                for experiment in experiments:
                    if wanted := tuple(stage for stage in until if stage in experiment.stages):
                        yield Cell(experiment.model_copy(update={"seed": checked}), wanted)


def _checked(model: Any, content: Mapping[str, Any], source: str) -> Any:
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first, *others = describe(error, model)
        more = f" (and {len(others)} more)" if others else ""
        raise InputError(f"{source}: {first}{more}") from None
    except InputError as error:
        raise InputError(f"{source}: {error}") from None


def _checked_axes(axes: Any, source: str) -> Axes:
    """`axes` if its keys exist and its values are lists that are not empty."""
    if not isinstance(axes, dict):
        raise InputError(f"{source}: axes: expected keys with lists of values, found {axes!r}")
    for key, values in axes.items():
        check_key(str(key), f"{source}: axes: ")
        if not isinstance(values, list) or not values:
            raise InputError(f"{source}: axes.{key}: expected a list of values, found {values!r}")
    return axes


def check_key(key: str, source: str = "") -> None:
    """Raise `InputError` unless `key` is `seed`, or `<section>.<key>` of a parameter file."""
    section, dot, name = key.partition(".")
    if section not in SECTIONS:
        raise InputError(f"{source}{unknown_choice('section', section, list(SECTIONS))}")
    if section == "seed":
        if dot:
            raise InputError(f"{source}unknown key {key!r}; did you mean 'seed'?")
        return
    shape: Any = ExperimentSet.model_fields[section].annotation
    for part in getattr(shape, "__args__", ()):  # `Simulate | None`
        shape = part if hasattr(part, "model_fields") else shape
    known = [f"{section}.{field}" for field in getattr(shape, "model_fields", {})]
    if f"{section}.{name}" not in known:
        raise InputError(f"{source}{unknown_choice('key', key, known)}")


def _sections(content: Mapping[str, Any], source: str, others: set[str]) -> Sections:
    """The sections of a parameter file that are in `content`, which may have the keys `others` too."""
    for key in content:
        if key not in SECTIONS and key not in others:
            raise InputError(f"{source}: {unknown_choice('key', str(key), [*SECTIONS, *sorted(others)])}")
    return {key: value for key, value in content.items() if key in SECTIONS}


def _merged(below: Sections, above: Sections) -> Sections:
    """`above` over `below`: keys of sections are replaced one by one."""
    merged = dict(below)
    for name, value in above.items():
        old = merged.get(name)
        merged[name] = old | value if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _with(sections: Sections, key: str, value: Any) -> Sections:
    """`sections` with one dotted key set; what is no section is left for the validation to name."""
    section, dot, name = key.partition(".")
    if not dot:
        return sections | {section: value}
    old = sections.get(section) or {}
    return sections | {section: old | {name: value} if isinstance(old, dict) else old}


def _beside(path: Path, name: str) -> Path:
    """A file that another one names: a grid of ours, or a path relative to it."""
    return path.parent / name if name.endswith((".yaml", ".yml")) else grid_path(name)


def _refuse_circle(path: Path, above: tuple[Path, ...]) -> None:
    if path.resolve() in {other.resolve() for other in above}:
        raise InputError(f"{path}: it names itself, through {' and '.join(map(str, above))}")
