"""Runs SCALE-Sim 3.0.0 itself on a network of ours, and says what it counted and what it took, as JSON.

    PYTHON -m benchmarks.scale_sim_tool resnet18 --dataflow os --rows 32 --columns 32

PYTHON needs `scalesim`, which works with NumPy 2.2 and fails with the 2.4 of this project's environment. For
that reason this file needs nothing of ours but the shapes of layers. SCALE-Sim is set up so that it simulates
the array alone: it writes no traces, and the memories keep up.
"""

import json
import sys
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.options import Parser, count
from hwsim.errors import InputError
from hwsim.layers import Layer, load_network
from hwsim.scale_sim import Dataflow

# Every key is read, and none has a default. CALC is a bandwidth that never stalls the array; layouts and
# banks are not used then.
CONFIGURATION = """\
[general]
run_name = run
[run_presets]
InterfaceBandwidth = CALC
UseRamulatorTrace = False
[architecture_presets]
ArrayHeight = {rows}
ArrayWidth = {columns}
IfmapSramSzkB = 64
FilterSramSzkB = 64
OfmapSramSzkB = 64
IfmapOffset = 0
FilterOffset = 10000000
OfmapOffset = 20000000
Dataflow = {dataflow}
ReadRequestBuffer = 60
WriteRequestBuffer = 60
[layout]
IfmapCustomLayout = False
IfmapSRAMBankBandwidth = 10
IfmapSRAMBankNum = 10
IfmapSRAMBankPort = 2
FilterCustomLayout = False
FilterSRAMBankBandwidth = 10
FilterSRAMBankNum = 10
FilterSRAMBankPort = 2
[sparsity]
SparsitySupport = False
"""


@dataclass(frozen=True, kw_only=True)
class ToolRun:
    """What SCALE-Sim said of some layers, and what it took."""

    version: str
    cycles: tuple[int, ...]
    """"Total Cycles" of each layer, in which fetching before the first one is not counted."""
    import_s: float
    run_s: float
    """All layers, reading of the configuration and writing of the reports included."""


def run_tool(layers: Sequence[Layer], dataflow: Dataflow, rows: int, columns: int) -> ToolRun:
    """Simulate `layers` of one group for one image.

    Raises:
        ImportError: there is no `scalesim`.
        RuntimeError: it gave up. It says why on the standard output, which is the standard error here.
    """
    start = perf_counter()
    from scalesim.scale_sim import scalesim

    imported = perf_counter()
    with tempfile.TemporaryDirectory() as name, redirect_stdout(sys.stderr):
        folder = Path(name)
        files = {
            "config": CONFIGURATION.format(rows=rows, columns=columns, dataflow=dataflow),
            "topology": topology(layers),
            "layout": "no layer has a layout of its own\n",  # not used, but it must be there
        }
        for kind, text in files.items():
            (folder / kind).write_text(text)
        try:
            # its command line has no way to save the space of the traces
            tool = scalesim(
                save_disk_space=True, verbose=False, **{kind: str(folder / kind) for kind in files}
            )
            tool.run_scale(top_path=str(folder))
        except SystemExit as end:  # its way to report an error, with status 0
            raise RuntimeError("SCALE-Sim gave up") from end
        simulated = tool.runner.single_layer_sim_object_list
        cycles = tuple(int(layer.get_compute_report_items()[1]) for layer in simulated)
    return ToolRun(
        version=version("scalesim"),
        cycles=cycles,
        import_s=imported - start,
        run_s=perf_counter() - imported,
    )


def topology(layers: Sequence[Layer]) -> str:
    """SCALE-Sim's table of layers.

    It knows no padding: the input is what the outputs need. Layers are numbered, because it takes a name
    with "DP" in it for a depthwise convolution. A line ends with a comma, or its last number is lost.
    """
    lines = ["layer, input height, input width, kernel height, kernel width, channels, kernels, stride,"]
    for number, layer in enumerate(layers):
        if layer.groups > 1:
            raise ValueError(f"layer {layer.name!r} has {layer.groups} groups; expected 1")
        step = stride(layer)
        height = (layer.out_height - 1) * step + layer.kernel_height
        width = (layer.out_width - 1) * step + layer.kernel_width
        values = height, width, layer.kernel_height, layer.kernel_width, layer.in_channels, layer.out_channels
        lines.append(f"{number}, {', '.join(map(str, values))}, {step},")
    return "\n".join(lines) + "\n"


def stride(layer: Layer) -> int:
    """Input rows from one output row to the next; it decides what SCALE-Sim reads, not what it computes."""
    return max(1, round(layer.in_height / layer.out_height))


def peak_memory_bytes() -> int:
    """Most memory that this process had at a time.

    Linux's `getrusage` counts for a new process also what its parent had when it started it.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak


def main() -> None:
    parser = Parser(description="SCALE-Sim on a network of ours; prints JSON.")
    parser.add_argument("network", help="a network that comes with hwsim, or a table of layers (.csv)")
    parser.add_argument("--dataflow", choices=("os", "ws"), default="os")
    parser.add_argument("--rows", type=count, default=32)
    parser.add_argument("--columns", type=count, default=32)
    arguments = parser.parse_args()
    try:
        layers = load_network(arguments.network)
    except InputError as error:
        parser.error(str(error))
    found = run_tool(layers, arguments.dataflow, arguments.rows, arguments.columns)
    said: dict[str, Any] = asdict(found) | {"peak_memory_bytes": peak_memory_bytes()}
    print(json.dumps(said))


if __name__ == "__main__":
    main()
