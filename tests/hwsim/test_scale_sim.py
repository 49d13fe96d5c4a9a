"""SCALE-Sim's cycles: published runs, the tool itself where it is installed, and ours against them.

An array of 16 x 16 has as many multipliers as our default design. How much longer SCALE-Sim's array takes for
the same multiplications is explained to the cycle: it fills anew in every fold; the rest is remainders.
"""

from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.scale_sim_tool import run_tool, stride, topology
from hwsim.errors import InputError
from hwsim.hardware import load_hardware
from hwsim.layers import Layer, load_network
from hwsim.scale_sim import (
    CYCLES,
    Dataflow,
    network_cycles,
    output_stationary_cycles,
    weight_stationary_cycles,
)
from hwsim.simulate import simulate_layer

CORE = load_hardware("unstructured")
SIDE = 16
"""Rows and columns of an array with as many multipliers as CORE; CORE has as many vector units and lanes."""

RESNET18, WRN34_10 = load_network("resnet18"), load_network("wrn34_10")


def convolution(
    inputs: int, outputs: int, kernel: int, size: int, groups: int = 1, step: int = 1, name: str = "layer"
) -> Layer:
    """A padded convolution with an output map of `size` x `size`."""
    return Layer(
        name=name,
        in_channels=inputs,
        out_channels=outputs,
        kernel_height=kernel,
        kernel_width=kernel,
        in_height=size * step,
        in_width=size * step,
        out_height=size,
        out_width=size,
        groups=groups,
    )


# --- the closed form -------------------------------------------------------------------------------------


def test_published_runs() -> None:
    """scalesim 3.0.0 on the 20 convolutions of ResNet-18, images and array 32 x 32, bandwidth CALC."""
    assert len(RESNET18) == 20
    assert network_cycles(RESNET18, "os", 32, 32) == 713_132
    assert network_cycles(RESNET18, "ws", 32, 32) == 1_567_112


def test_small_array_by_hand() -> None:
    """2 x 2 multipliers, 4 positions, 3 channels, dot products of 2.

    Outputs in the array: 2 x 2 folds of 2 products, which reach the last row and column 1 + 1 cycles late.
    Weights in the array: 1 x 2 folds of 2 cycles to load and 4 positions, again 1 + 1 cycles late.
    """
    layer = convolution(2, 3, 1, 2)
    assert output_stationary_cycles(layer, 2, 2) == 4 * (2 + 2) - 1
    assert weight_stationary_cycles(layer, 2, 2) == 2 * (4 + 4) - 1


def test_rows_and_columns_are_not_alike() -> None:
    layer = convolution(1, 4, 1, 3)
    assert output_stationary_cycles(layer, 9, 1) == 4 * (1 + 9 - 1) - 1
    assert output_stationary_cycles(layer, 1, 9) == 9 * (1 + 9 - 1) - 1
    assert weight_stationary_cycles(layer, 9, 1) == 4 * (9 + 18 - 1) - 1
    assert weight_stationary_cycles(layer, 1, 9) == 1 * (9 + 9) - 1


@pytest.mark.parametrize("dataflow", ["os", "ws"])
def test_groups_are_layers_of_their_own(dataflow: Dataflow) -> None:
    grouped, part = convolution(12, 8, 3, 5, groups=4), convolution(3, 2, 3, 5)
    assert CYCLES[dataflow](grouped, 4, 4, 3) == 4 * CYCLES[dataflow](part, 4, 4, 3)


@pytest.mark.parametrize("dataflow", ["os", "ws"])
def test_images_are_more_positions(dataflow: Dataflow) -> None:
    assert CYCLES[dataflow](convolution(3, 8, 3, 6), 4, 4, 4) == CYCLES[dataflow](
        convolution(3, 8, 3, 12), 4, 4
    )


@pytest.mark.parametrize("dataflow", ["os", "ws"])
@pytest.mark.parametrize(
    ("name", "array"), [("rows", (0, 1, 1)), ("columns", (1, -1, 1)), ("images", (1, 1, 0))]
)
def test_wrong_array(dataflow: Dataflow, name: str, array: tuple[int, int, int]) -> None:
    with pytest.raises(InputError, match=rf"^{name} is -?\d; expected a count from 1 on$"):
        CYCLES[dataflow](convolution(3, 8, 3, 6), *array)


# --- ours against it -------------------------------------------------------------------------------------


def explained_gap(layer: Layer, images: int = 1) -> int:
    """SCALE-Sim's cycles less ours, for a dense layer of one group whose channels fill all vector units.

    Let a = ceil(P/16) and b = ceil(n/16), for P positions and n channels; d is the length of a dot product.
    SCALE-Sim has a*b folds of d + 16 + 16 - 2 cycles; it reports the number of the last one, counted from 0.
    Ours multiplies b times over at each of P positions, for ceil(d/16) cycles, then empties its pipeline;
    where positions and channels are few it waits for its accumulators, as its counters say.
    """
    row_folds, column_folds = ceil(layer.positions * images / SIDE), ceil(layer.out_channels / SIDE)
    fill = row_folds * column_folds * (SIDE + SIDE - 2) - 1
    chunks = ceil(layer.inputs_per_output / SIDE)
    remainders = column_folds * (row_folds * layer.inputs_per_output - layer.positions * images * chunks)
    counted = simulate_layer(layer, CORE, images=images).counters
    waits = counted.depth // CORE.vector_units
    return fill + remainders - waits - CORE.pipeline_depth_cycles


def test_designs_have_as_many_multipliers() -> None:
    assert (CORE.vector_units, CORE.lanes) == (SIDE, SIDE)


@pytest.mark.parametrize("network", [RESNET18, WRN34_10], ids=["resnet18", "wrn34_10"])
def test_dense_cycles_lie_between_the_bound_and_scale_sim(network: tuple[Layer, ...]) -> None:
    ours = sum(simulate_layer(layer, CORE).counters.cycles for layer in network)
    theirs = network_cycles(network, "os", SIDE, SIDE)
    assert sum(layer.macs for layer in network) / SIDE**2 <= ours <= theirs <= ours / 0.95


def gap(layer: Layer, images: int = 1) -> int:
    """SCALE-Sim's cycles less ours, as both count them."""
    ours = simulate_layer(layer, CORE, images=images).counters.cycles
    return output_stationary_cycles(layer, SIDE, SIDE, images) - ours


@pytest.mark.parametrize("layer", RESNET18 + WRN34_10, ids=lambda layer: f"{layer.out_channels}-{layer.name}")
def test_gap_is_fill_drain_and_what_dot_products_lack_of_full_chunks(layer: Layer) -> None:
    """In networks whose positions and channels are multiples of 16, and that never wait."""
    folds = layer.positions * layer.out_channels // SIDE**2
    lacking = -layer.inputs_per_output % SIDE
    assert gap(layer) == folds * 30 - 1 - 20 - folds * lacking
    assert gap(layer) == explained_gap(layer)


@settings(deadline=None)
@given(
    inputs=st.integers(1, 40),
    outputs=st.integers(1, 12).map(lambda blocks: SIDE * blocks),
    kernel=st.integers(1, 3),
    size=st.integers(1, 9),
    images=st.integers(1, 3),
)
def test_gap_is_explained_with_remainders(
    inputs: int, outputs: int, kernel: int, size: int, images: int
) -> None:
    layer = convolution(inputs, outputs, kernel, size)
    assert gap(layer, images) == explained_gap(layer, images)


# --- the tool itself -------------------------------------------------------------------------------------

UNEVEN = (
    convolution(3, 5, 3, 8, name="remainders in all directions"),
    convolution(4, 7, 3, 4, step=2, name="stride, and DP in its name"),
    convolution(20, 9, 1, 1, name="linear"),
)


@pytest.mark.slow
@pytest.mark.parametrize("array", [(4, 4), (3, 7), (8, 2)], ids=str)
@pytest.mark.parametrize("dataflow", ["os", "ws"])
def test_the_tool_counts_the_same(dataflow: Dataflow, array: tuple[int, int]) -> None:
    pytest.importorskip(
        "scalesim", reason="scalesim 3.0.0 fails with NumPy 2.4: it needs an environment of its own"
    )
    found = run_tool(UNEVEN, dataflow, *array)
    assert found.version == "3.0.0"
    assert list(found.cycles) == [CYCLES[dataflow](layer, *array) for layer in UNEVEN]


def test_the_tool_is_given_inputs_without_padding() -> None:
    lines = topology(UNEVEN).splitlines()
    assert lines[1:] == ["0, 10, 10, 3, 3, 3, 5, 1,", "1, 9, 9, 3, 3, 4, 7, 2,", "2, 1, 1, 1, 1, 20, 9, 1,"]
    assert {stride(layer) for layer in RESNET18} == {1, 2}
    with pytest.raises(ValueError, match="2 groups"):
        topology([convolution(4, 4, 3, 4, groups=2)])
