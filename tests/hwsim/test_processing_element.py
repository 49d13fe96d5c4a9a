"""The processing element: bricks against Python's integers, and the Verilog against both.

The last tests simulate `hwsim/rtl/processing_element.v` with Icarus Verilog: values, latency and throughput.
"""

import random
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwsim import processing_element as pe
from hwsim.errors import InputError

LOWEST, HIGHEST = -(2**15), 2**15 - 1
CORNERS = [LOWEST, LOWEST + 1, -4097, -4096, -257, -256, -17, -16, -9, -8, -1]
CORNERS += [0, 1, 7, 8, 15, 16, 255, 256, 4095, 4096, HIGHEST - 1, HIGHEST]
EVERY_WORD = np.arange(LOWEST, HIGHEST + 1)
EVERY_WEIGHT = range(-8, 8)

words = st.integers(LOWEST, HIGHEST)
weights = st.integers(-8, 7)


# --- Python ----------------------------------------------------------------------------------------------


def test_digits_of_every_word_give_the_word() -> None:
    found = pe.digits(EVERY_WORD)
    assert (found.min(axis=0).tolist(), found.max(axis=0).tolist()) == ([0, 0, 0, -8], [15, 15, 15, 7])
    assert np.array_equal(found @ [1, 16, 256, 4096], EVERY_WORD)


@pytest.mark.parametrize("a_signed", [False, True])
@pytest.mark.parametrize("b_signed", [False, True])
def test_brick_multiplies_all_operands(a_signed: bool, b_signed: bool) -> None:
    a = np.arange(-8, 8) if a_signed else np.arange(16)
    b = np.arange(-8, 8) if b_signed else np.arange(16)
    found = pe.brick(a[:, None], b, a_signed=a_signed, b_signed=b_signed)
    assert found.tolist() == [[int(i) * int(j) for j in b] for i in a]
    assert -120 <= found.min() <= found.max() <= 225


@settings(deadline=None)
@given(st.lists(st.tuples(words, words), min_size=1, max_size=50))
def test_composed_product_is_the_product(pairs: list[tuple[int, int]]) -> None:
    x, w = zip(*pairs, strict=True)
    assert pe.compose_16x16(pe.digits(x), pe.digits(w)).tolist() == [a * b for a, b in pairs]


def test_composed_product_of_corners() -> None:
    x, w = np.array(CORNERS)[:, None], np.array(CORNERS)
    found = pe.compose_16x16(pe.digits(x), pe.digits(w))
    assert found.tolist() == [[a * b for b in CORNERS] for a in CORNERS]
    assert (found.min(), found.max()) == (-(2**30 - 2**15), 2**30)  # the range that the docstring names


@settings(deadline=None)
@given(words, st.tuples(weights, weights, weights, weights))
def test_four_products_are_the_products(x: int, four: tuple[int, ...]) -> None:
    assert pe.four_4x16(pe.digits(x), four).tolist() == [x * w for w in four]


def test_every_word_times_every_weight() -> None:
    rows = np.array(EVERY_WEIGHT).reshape(4, 1, 4)
    found = pe.four_4x16(pe.digits(EVERY_WORD), rows)
    assert np.array_equal(found, EVERY_WORD[:, None] * rows)
    assert (found.min(), found.max()) == (-262136, 262144)  # the range that the docstring names


def test_counts_of_the_model() -> None:
    """What the model of cycles and energy is told."""
    assert pe.bricks(pe.digits(1), pe.digits(1), mode="precise").size == pe.BRICKS == 16
    assert pe.bricks(pe.digits(1), [1, 2, 3, 4], mode="approximate").size == pe.BRICKS
    assert pe.PRODUCTS_PER_CYCLE == {"precise": 1, "approximate": 4}
    assert (pe.BRICK_LATENCY, pe.SHIFT_ADD_LATENCY, pe.LATENCY) == (2, 3, 5)


ZEROS = (0, 0, 0, 0)
WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "word": (lambda: pe.digits([0, 32768]), "values contains 32768; expected integers from -32768 to 32767"),
    "fraction": (lambda: pe.digits(0.5), "values has type float64"),
    "brick, signed": (lambda: pe.brick(8, 0, a_signed=True, b_signed=True), "a contains 8; .* from -8 to 7"),
    "brick, unsigned": (lambda: pe.brick(0, -1, a_signed=True, b_signed=False), "b contains -1; .* 0 to 15"),
    "low digit": (lambda: pe.compose_16x16((-1, 0, 0, 0), ZEROS), r"x_digits\[..., 0\] contains -1"),
    "top digit": (lambda: pe.compose_16x16(ZEROS, (0, 0, 0, 8)), r"weight_digits\[..., 3\] contains 8"),
    "weight": (lambda: pe.four_4x16(ZEROS, (0, 8, 0, 0)), r"weight_digits\[..., 1\] contains 8"),
    "three digits": (lambda: pe.four_4x16((0, 0, 0), ZEROS), r"x_digits has shape \(3,\); expected 4"),
    "mode": (lambda: pe.bricks(ZEROS, ZEROS, mode="precize"), "did you mean 'precise'"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("case", WRONG)
def test_operands_out_of_range_are_named(case: str) -> None:
    call, message = WRONG[case]
    with pytest.raises(InputError, match=message):
        call()


# --- Verilog ---------------------------------------------------------------------------------------------

DESIGN = Path(pe.__file__).parent / "rtl" / "processing_element.v"
BENCH = Path(__file__).parent / "processing_element_bench.v"


@dataclass(frozen=True)
class Cycle:
    """The inputs of one cycle, as bits."""

    x: int
    weights: int
    approximate: bool
    valid: bool = True
    reset: bool = False


@dataclass(frozen=True)
class Output:
    """One cycle with an output."""

    cycle: int
    approximate: bool
    products: int
    """All 80 bits."""


RESET = Cycle(0, 0, approximate=False, valid=False, reset=True)


def signed(pattern: int, bits: int) -> int:
    """The number that a pattern of so many bits means."""
    return pattern - (pattern >> bits - 1 << bits)


def expected_products(cycle: Cycle) -> int:
    """The 80 bits of the output port, from plain multiplication."""
    x = signed(cycle.x, 16)
    if not cycle.approximate:
        return x * signed(cycle.weights, 16) & 0xFFFF_FFFF
    four = [signed(cycle.weights >> 4 * r & 0xF, 4) for r in range(4)]
    return sum((x * w & 0xF_FFFF) << 20 * r for r, w in enumerate(four))


def expected_outputs(cycles: Sequence[Cycle]) -> list[Output]:
    """One output per valid input, LATENCY cycles later, unless a reset meets it on its way."""
    return [
        Output(number + pe.LATENCY, cycle.approximate, expected_products(cycle))
        for number, cycle in enumerate(cycles)
        if cycle.valid and not any(later.reset for later in cycles[number : number + pe.LATENCY])
    ]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled bench; skips its test where there is no simulator."""
    for program in ("iverilog", "vvp"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not on PATH: install Icarus Verilog (package iverilog)")
    compiled = tmp_path_factory.mktemp("rtl") / "bench"
    command = ["iverilog", "-g2001", "-Wall", "-o", str(compiled), str(BENCH), str(DESIGN)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    return compiled


def simulate(bench: Path, folder: Path, cycles: Sequence[Cycle]) -> list[Output]:
    """What the Verilog gives for these inputs; an unknown bit is an error."""
    operations, results = folder / "operations", folder / "results"
    operations.write_text(
        "".join(f"{c.reset:x} {c.valid:x} {c.approximate:x} {c.x:x} {c.weights:x}\n" for c in cycles)
    )
    files = [f"+operations={operations}", f"+results={results}"]
    subprocess.run(["vvp", "-n", str(bench), *files], check=True, timeout=120)
    outputs = []
    for line in results.read_text().splitlines():
        cycle, (valid, approximate), products = line.split()
        assert "x" not in valid + approximate + products, f"unknown bits: {line}"
        outputs.append(Output(int(cycle), approximate == "1", int(products, 16)))
    return outputs


def random_word(draw: random.Random) -> int:
    """16 bits, a corner in one of four."""
    return draw.choice(CORNERS) & 0xFFFF if draw.random() < 0.25 else draw.getrandbits(16)


@pytest.mark.parametrize("seed", [1, 2])
def test_verilog_gives_the_products_in_any_mix_of_modes(bench: Path, tmp_path: Path, seed: int) -> None:
    """Bit for bit and cycle for cycle, with gaps, and operands in the gaps that must not matter."""
    draw = random.Random(seed)
    cycles = [RESET]
    for _ in range(4000):
        x, w = random_word(draw), random_word(draw)
        cycles.append(Cycle(x, w, draw.random() < 0.5, valid=draw.random() < 0.8))
    cycles += [Cycle(x & 0xFFFF, w & 0xFFFF, False) for x, w in product(CORNERS, CORNERS)]
    assert simulate(bench, tmp_path, cycles) == expected_outputs(cycles)


def test_each_verilog_brick_multiplies_all_digits(bench: Path, tmp_path: Path) -> None:
    """One digit of x and one of the weight at a time, so that no other brick can hide or mend an error."""
    cycles = [RESET]
    for i, r, a, b, approximate in product(range(4), range(4), range(16), range(16), [False, True]):
        cycles.append(Cycle(a << 4 * i, b << 4 * r, approximate))
    assert simulate(bench, tmp_path, cycles) == expected_outputs(cycles)


@pytest.mark.parametrize("modes", [[False], [True], [False, True]], ids=["precise", "approximate", "both"])
def test_verilog_starts_an_operation_every_cycle(bench: Path, tmp_path: Path, modes: list[bool]) -> None:
    draw = random.Random(3)
    count = 1000
    operations = [Cycle(random_word(draw), random_word(draw), modes[i % len(modes)]) for i in range(count)]
    outputs = simulate(bench, tmp_path, [RESET, *operations])
    first = 1 + pe.BRICK_LATENCY + pe.SHIFT_ADD_LATENCY
    assert [output.cycle for output in outputs] == list(range(first, first + count))
    assert [output.products for output in outputs] == [expected_products(c) for c in operations]


def test_verilog_and_bricks_agree(bench: Path, tmp_path: Path) -> None:
    """The two forms of the shift-add tree, without multiplication between them."""
    draw = random.Random(4)
    cycles = [RESET, *(Cycle(random_word(draw), random_word(draw), draw.random() < 0.5) for _ in range(500))]
    for cycle, output in zip(cycles[1:], simulate(bench, tmp_path, cycles), strict=True):
        x = pe.digits(signed(cycle.x, 16))
        if cycle.approximate:
            four = pe.four_4x16(x, [signed(cycle.weights >> 4 * r & 0xF, 4) for r in range(4)])
            found = [signed(output.products >> 20 * r & 0xF_FFFF, 20) for r in range(4)]
            assert found == four.tolist()
        else:
            assert signed(output.products, 32) == pe.compose_16x16(x, pe.digits(signed(cycle.weights, 16)))


def test_verilog_reset_drops_what_is_under_way(bench: Path, tmp_path: Path) -> None:
    draw = random.Random(5)
    cycles = [RESET]
    for number in range(400):
        operation = Cycle(random_word(draw), random_word(draw), draw.random() < 0.5, reset=number % 23 == 22)
        cycles.append(operation)
    outputs = simulate(bench, tmp_path, cycles)
    assert outputs == expected_outputs(cycles)
    assert len(outputs) == 400 - (400 // 23) * pe.LATENCY
