"""What `benchmarks.simulator` measures of the simulator in a process of its own; prints JSON.

    python -m benchmarks.simulator_runs dense resnet18 --rounds 7
    python -m benchmarks.simulator_runs sweep wrn34_10

Nothing here imports PyTorch: neither the time of the imports nor the memory would be the simulator's.
"""

import json
from dataclasses import dataclass
from itertools import pairwise
from time import perf_counter
from typing import Any

from benchmarks.options import Parser, count
from benchmarks.scale_sim_tool import peak_memory_bytes
from hwsim.errors import InputError


@dataclass(frozen=True)
class Noise:
    """One configuration: a design, and a share of noisy neurons, an N:M pattern, or neither (dense)."""

    hardware: str
    ratio: float | None = None
    pattern: str | None = None

    @property
    def name(self) -> str:
        """What the configuration is called."""
        if self.ratio is not None:
            return f"{self.ratio:.0%}"
        return self.pattern or "dense"


CONFIGURATIONS = (
    Noise("unstructured"),
    *(Noise("unstructured", ratio=ratio) for ratio in (0.1, 0.2, 0.3, 0.5, 0.8, 0.9, 0.99)),
    *(Noise("structured", pattern=pattern) for pattern in ("1:8", "2:8", "4:8", "6:8", "7:8")),
)
"""Dense, and the ratios and patterns that the paper trains (its sections 4.1 and 4.3), each on its design."""


def dense(network: str, rounds: int) -> dict[str, Any]:
    """Simulate `network` without noise once, then `rounds` times more."""
    start = perf_counter()
    from hwsim.hardware import load_hardware
    from hwsim.layers import load_network
    from hwsim.simulate import simulate_network
    from hwsim.technology import load_technology

    imported = perf_counter()
    layers, hardware = load_network(network), load_hardware("unstructured")
    technology = load_technology("nangate45")
    marks, cycles = [perf_counter()], 0
    for _ in range(1 + rounds):
        cycles = simulate_network(layers, hardware, technology).cycles
        marks.append(perf_counter())
    first, *later = (end - begin for begin, end in pairwise(marks))
    return {
        "import_s": imported - start,
        "read_s": marks[0] - imported,
        "first_s": first,
        "seconds": later,
        "cycles": cycles,
        "peak_memory_bytes": peak_memory_bytes(),
    }


def sweep(network: str) -> dict[str, Any]:
    """Simulate `network` in all `CONFIGURATIONS`, with masks drawn for each."""
    start = perf_counter()
    import numpy as np

    from hwsim.hardware import load_hardware
    from hwsim.layers import load_network
    from hwsim.masks import Pattern, random_masks
    from hwsim.simulate import simulate_network
    from hwsim.technology import load_technology

    imported = perf_counter()
    layers, technology = load_network(network), load_technology("nangate45")
    rng = np.random.default_rng(0)
    runs = []
    for noise in CONFIGURATIONS:
        before = perf_counter()
        pattern = None if noise.pattern is None else Pattern.parse(noise.pattern)
        masks = None
        if noise.ratio is not None or pattern is not None:
            masks = random_masks(layers, rng, ratio=noise.ratio, pattern=pattern)
        drawn = perf_counter()
        result = simulate_network(layers, load_hardware(noise.hardware), technology, masks)
        runs.append(
            {
                "noise": noise.name,
                "hardware": noise.hardware,
                "masks_s": drawn - before,
                "simulation_s": perf_counter() - drawn,
                "cycles": result.cycles,
            }
        )
    return {
        "import_s": imported - start,
        "run_s": perf_counter() - imported,
        "runs": runs,
        "peak_memory_bytes": peak_memory_bytes(),
    }


def main() -> None:
    parser = Parser(description="One measurement of the simulator; prints JSON.")
    parser.add_argument("what", choices=("dense", "sweep"))
    parser.add_argument("network")
    parser.add_argument("--rounds", type=count, default=7, help="of dense, after the first (default: 7)")
    arguments = parser.parse_args()
    try:
        found = (
            dense(arguments.network, arguments.rounds)
            if arguments.what == "dense"
            else sweep(arguments.network)
        )
    except InputError as error:
        parser.error(str(error))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
