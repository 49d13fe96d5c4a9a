"""`python -m hwsim`: simulate, sweep, explain, compare."""

import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, get_args

import typer
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from hwsim import figures, tables
from hwsim.cacti import STANDARD_POINTS, regenerate
from hwsim.compare import differences, load_result
from hwsim.errors import InputError, unknown_choice
from hwsim.hardware import Hardware, load_hardware
from hwsim.layers import Layer, load_network
from hwsim.masks import load_masks
from hwsim.results import write_rows
from hwsim.simulate import Engine, simulate_layer, simulate_network
from hwsim.sram import CACTI45, Cell, Ports, SramPoint
from hwsim.sram import points as sram_points
from hwsim.sweep import PATTERNS, RATIOS, Noise, Point, random_noise, read_rows
from hwsim.sweep import sweep as run_sweep
from hwsim.technology import load_technology
from hwsim.usage import CommandLine, say, user_errors

app = CommandLine(
    help="A cycle-accurate simulator of the accelerator: what noise in the non-essential neurons saves.",
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
)

Model = Annotated[str, typer.Option("--model", help="A network that comes with us, or a .csv of layers.")]
Ratio = Annotated[float | None, typer.Option(help="Share of the neurons that get noise, in random places.")]
PatternText = Annotated[str | None, typer.Option("--pattern", help="N:M, N of M channels get noise.")]
MaskFile = Annotated[Path | None, typer.Option("--masks", help="Measured masks, as the pipeline saves them.")]
Core = Annotated[
    str | None,
    typer.Option(
        "--hardware",
        help="A design of ours, or a .yaml; default: structured with --pattern, else unstructured.",
    ),
]
TechnologyName = Annotated[str, typer.Option("--technology", help="nangate45, horowitz45, or a .yaml.")]
Images = Annotated[int, typer.Option(min=1, help="Images computed together; --masks has its own number.")]
Seed = Annotated[int, typer.Option(help="Of masks in random places.")]
Dram = Annotated[
    int | None, typer.Option(min=1, help="Bytes a cycle of a memory outside; default: as the design says.")
]


WIDTH = 160
"""Columns of tables that are written to a file or a pipe."""


def show(*parts: RenderableType) -> None:
    """Tables and lines of results on standard output, complete in a file too."""
    console = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else WIDTH)
    for part in parts:
        console.print(part)


@app.command()
def run(
    model: Model,
    ratio: Ratio = None,
    pattern: PatternText = None,
    masks: MaskFile = None,
    hardware: Core = None,
    technology: TechnologyName = "nangate45",
    images: Images = 1,
    seed: Seed = 0,
    dram: Dram = None,
    engine: Annotated[str, typer.Option(help="fast, or reference: every cycle is stepped through.")] = "fast",
    json: Annotated[Path | None, typer.Option(help="Write everything to this file.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write a line for each layer to this file.")] = None,
) -> None:
    """Simulate a network, with noise and dense beside it; without noise only dense.

    Dense runs on the same design, or, beside one for patterns, on `unstructured`, as in the paper.
    """
    with user_errors():
        layers = load_network(model)
        core = _core(hardware, pattern, dram)
        costs = load_technology(technology)
        noise = _noise(layers, ratio, pattern, masks, images, seed)
        number = images if noise is None else noise.images
        name = Path(model).stem
        dense_core = core
        if noise is not None and core.selection == "groups":
            dense_core = _core(None, None, core.dram_bytes_per_cycle)
        dense = simulate_network(layers, dense_core, costs, images=number, network=name)
        result = dense
        if noise is not None or engine != "fast":
            result = simulate_network(
                layers,
                core,
                costs,
                None if noise is None else noise.masks,
                images=number,
                network=name,
                noise="dense" if noise is None else noise.label,
                engine=_engine(engine),
            )
        show(tables.layers(result), tables.figures(result, dense), *tables.remarks(result, costs))
        if json is not None:
            result.save_json(json)
        if csv is not None:
            result.save_csv(csv)


@app.command()
def sweep(
    model: Annotated[
        list[str], typer.Option("--model", help="A network, or a .csv of layers; may be repeated.")
    ],
    masks: Annotated[
        list[Path] | None, typer.Option(help="Measured masks of the (only) network; may be repeated.")
    ] = None,
    hardware: Annotated[
        list[str] | None,
        typer.Option(
            help="A design of ours, or a .yaml; may be repeated. The first runs the dense network. "
            "Default: unstructured and structured."
        ),
    ] = None,
    technology: TechnologyName = "nangate45",
    images: Images = 1,
    seed: Seed = 0,
    dram: Dram = None,
    out: Annotated[Path, typer.Option(help="Folder for sweep.csv and the figure.")] = Path("hwsim_sweep"),
) -> None:
    """Time, energy and efficiency over ratios and patterns, relative to dense (paper figure 5)."""
    with user_errors():
        if masks and len(model) > 1:
            raise InputError(f"--masks are of one network; found {len(model)}: {', '.join(model)}")
        costs = load_technology(technology)
        cores = [_with_dram(load_hardware(name), dram) for name in hardware or ("unstructured", "structured")]
        names = [core.name for core in cores]
        if len(set(names)) < len(names):
            raise InputError(f"expected designs of different names, found {', '.join(names)}")
        points: list[Point] = []
        with _progress() as progress:
            for name in model:
                layers = load_network(name)
                noises = [
                    partial(random_noise, layers, amount, seed=seed, images=images)
                    for amount in (*RATIOS, *PATTERNS)
                ]
                noises += [partial(_measured, layers, path) for path in masks or ()]
                task = progress.add_task(Path(name).stem, total=len(noises))
                points += run_sweep(
                    Path(name).stem,
                    layers,
                    noises,
                    cores,
                    costs,
                    progress=partial(_show, progress, task),
                )
        if all(point.noise.origin == "none" for point in points):
            raise InputError(f"none of {', '.join(names)} can run such masks; expected a core for any mask")
        out.mkdir(parents=True, exist_ok=True)
        rows = [point.row() for point in points]
        write_rows(out / "sweep.csv", rows)
        for suffix in ("png", "pdf", "svg"):
            figures.save(figures.noise_sweep(rows), out / f"sweep.{suffix}")
        show(tables.points(points))
        say(f"written: {out}/sweep.csv, sweep.png, sweep.pdf, sweep.svg")


@app.command()
def draw(
    tables_: Annotated[
        list[Path], typer.Argument(metavar="TABLE...", help="sweep.csv, or the pipeline's simulation.csv.")
    ],
    out: Annotated[Path, typer.Option(help="The picture (.png, .pdf, .svg).")] = Path("sweep.png"),
) -> None:
    """Draw tables of simulations together: measured masks beside random ones, several networks."""
    with user_errors():
        figures.save(figures.noise_sweep([row for path in tables_ for row in read_rows(path)]), out)
        say(f"written: {out}")


@app.command()
def explain(
    model: Model,
    layer: Annotated[str | None, typer.Option(help="One layer; default: the whole network.")] = None,
    ratio: Ratio = None,
    pattern: PatternText = None,
    masks: MaskFile = None,
    hardware: Core = None,
    images: Images = 1,
    seed: Seed = 0,
    dram: Dram = None,
    timeline: Annotated[
        Path | None, typer.Option(help="Draw when each part works on the layer (.png, .pdf, .svg).")
    ] = None,
) -> None:
    """Where the cycles went: what vector units did or waited for, adding up to all cycles."""
    with user_errors():
        layers = load_network(model)
        core = _core(hardware, pattern, dram)
        if timeline is not None:
            if layer is None:
                raise InputError("--timeline draws one layer; expected --layer too")
            figures.check_format(timeline)
        if layer is not None and dram is not None:
            raise InputError(
                "--dram is shared by all layers; expected no --layer, which has its data in place"
            )
        noise = _noise(layers, ratio, pattern, masks, images, seed)
        number = images if noise is None else noise.images
        if layer is None:
            result = simulate_network(
                layers,
                core,
                load_technology("nangate45"),
                None if noise is None else noise.masks,
                images=number,
            )
            show(tables.causes_by_layer(result), tables.causes(result.counters, core))
            return
        names = [one.name for one in layers]
        if layer not in names:
            raise unknown_choice("layer", layer, names)
        chosen = layers[names.index(layer)]
        trace = simulate_layer(chosen, core, None if noise is None else noise.masks[layer], images=number)
        show(tables.causes(trace.counters, core))
        if timeline is not None:
            label = "dense" if noise is None else noise.label
            figures.save(figures.timeline(trace, f"{layer}, {label}, {core.name} core"), timeline)


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="A result of run --json.")],
    second: Annotated[Path, typer.Argument(help="Another one.")],
) -> None:
    """Two saved results, figure by figure."""
    with user_errors():
        one, other = load_result(first), load_result(second)
        show(tables.comparison(differences(one, other), first.name, second.name))


@app.command()
def cacti(
    binary: Annotated[Path, typer.Option("--cacti", help="The program CACTI 7, in its own folder.")],
    out: Annotated[Path, typer.Option(help="Table to write, or to add to.")] = CACTI45,
    kib: Annotated[
        list[int] | None, typer.Option(min=1, help="Capacities to run; default: the whole table.")
    ] = None,
    word_bytes: Annotated[list[int] | None, typer.Option(min=1, help="Widths; default: 4 to 64.")] = None,
) -> None:
    """Make the table of on-chip memories with your own CACTI."""
    with user_errors():
        wanted: Sequence[SramPoint] = STANDARD_POINTS
        if kib is not None or word_bytes is not None:
            capacities = [1024 * size for size in kib or ()] or sorted({p.bytes for p in STANDARD_POINTS})
            widths = word_bytes or sorted({p.word_bytes for p in STANDARD_POINTS})
            wanted = sram_points(capacities, widths, get_args(Ports), get_args(Cell))
        with _progress() as progress:
            task = progress.add_task("CACTI", total=len(wanted), completed=-1)  # told before each run
            _, impossible = regenerate(binary, wanted, out, lambda _: progress.advance(task))
        for line in impossible:
            say(line)
        say(f"written: {out}, {len(wanted) - len(impossible)} memories")


def _engine(name: str) -> Engine:
    if name == "fast":
        return "fast"
    if name == "reference":
        return "reference"
    raise unknown_choice("engine", name, ["fast", "reference"])


def _core(name: str | None, pattern: str | None, dram: int | None) -> Hardware:
    return _with_dram(load_hardware(name or ("structured" if pattern else "unstructured")), dram)


def _with_dram(core: Hardware, dram: int | None) -> Hardware:
    return core if dram is None else core.model_copy(update={"dram_bytes_per_cycle": dram})


def _noise(
    layers: tuple[Layer, ...],
    ratio: float | None,
    pattern: str | None,
    masks: Path | None,
    images: int,
    seed: int,
) -> Noise | None:
    given = [
        f"{option} {value}"
        for option, value in (("--ratio", ratio), ("--pattern", pattern), ("--masks", masks))
        if value is not None
    ]
    if len(given) > 1:
        raise InputError(f"expected one of --ratio, --pattern and --masks, found {' and '.join(given)}")
    if masks is not None:
        return _measured(layers, masks)
    amount = ratio if ratio is not None else pattern
    return None if amount is None else random_noise(layers, amount, seed=seed, images=images)


def _measured(layers: tuple[Layer, ...], path: Path) -> Noise:
    saved = load_masks(path, layers)
    return Noise(
        label=saved.about.get("noise", path.stem),
        pattern=saved.pattern,
        share=saved.noisy_share,
        masks=saved.masks,
        images=saved.images,
        origin="measured",
    )


def _show(progress: Progress, task: TaskID, done: int, total: int) -> None:
    progress.update(task, completed=done, total=total)


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
