"""The simulator: all tiles of a layer at once, in closed form. Equal to `hwsim.reference` in every count.

Arrays are indexed (tile, block, position, unit): a tile is `positions_per_tile` output positions, a block
is the output channels that the vector units hold at a time.
"""

from math import ceil

import numpy as np
from numpy.typing import NDArray

from hwsim.counters import Counters, LayerTrace, Pass
from hwsim.hardware import Hardware
from hwsim.layers import Layer
from hwsim.masks import Mask

Counts = NDArray[np.int64]


def simulate_group(layer: Layer, hardware: Hardware, mask: Mask | None, images: int) -> LayerTrace:
    """A convolution of one group: with noise where the mask is False, dense without a mask."""
    if mask is None:
        return _dense(layer, hardware, images)
    tiles = _tile_sizes(layer.positions * images, hardware.positions_per_tile)
    by_unit = _by_unit(mask, hardware)
    precise_lengths, precise = _precise(layer, hardware, by_unit, tiles)
    approximate_lengths, approximate = _approximate(layer, hardware, tiles)
    additions = layer.projection_nonzeros * tiles
    read = ceil(layer.inputs_per_output / hardware.lanes) * tiles
    projection_lengths = np.maximum(
        -(-additions // hardware.projection_adders), -(-read // hardware.activation_words_per_cycle)
    )
    passes, waits = _timeline(hardware, projection_lengths, approximate_lengths, precise_lengths)
    positions = int(tiles.sum())
    outputs = positions * layer.out_channels
    essential = int(mask.sum())
    words = ceil(layer.rank / hardware.lanes)
    return LayerTrace(
        precise
        + approximate
        + waits
        + Counters(
            multiplications_16x16=essential * layer.inputs_per_output,
            multiplications_4x16=outputs * layer.rank,
            accumulations=essential * layer.inputs_per_output + outputs * layer.rank,
            projection_additions=int(additions.sum()),
            comparisons=positions * _comparisons(layer.out_channels, hardware),
            projection_words_read=int(read.sum()),
            projection_entry_words_read=len(tiles)
            * ceil(layer.rank * layer.inputs_per_output / (4 * hardware.word_bytes)),
            projected_words_written=positions * words,
            output_words_written=positions * ceil(layer.out_channels / hardware.lanes)
            + _words_with_essential(mask, hardware.lanes),
        ),
        passes,
    )


def _dense(layer: Layer, hardware: Hardware, images: int) -> LayerTrace:
    positions = layer.positions * images
    mask = np.ones((positions, layer.out_channels), dtype=np.bool_)
    tiles = _tile_sizes(positions, hardware.positions_per_tile)
    lengths, counters = _precise(layer, hardware, _by_unit(mask, hardware), tiles)
    ends = lengths.cumsum()
    drain = hardware.pipeline_depth_cycles
    macs = positions * layer.out_channels * layer.inputs_per_output
    passes = tuple(
        Pass("precise", tile, int(end - length), int(end))
        for tile, (length, end) in enumerate(zip(lengths, ends, strict=True))
    )
    counters += Counters(
        cycles=int(ends[-1]) + drain,
        drain_cycles=drain,
        multiplications_16x16=macs,
        accumulations=macs,
        output_words_written=positions * ceil(layer.out_channels / hardware.lanes),
    )
    return LayerTrace(counters, passes)


def _tile_sizes(positions: int, size: int) -> Counts:
    """Positions of each tile; the last one may have fewer."""
    whole, rest = divmod(positions, size)
    return np.array([size] * whole + [rest] * (rest > 0), dtype=np.int64)


def _by_unit(mask: Mask, hardware: Hardware) -> NDArray[np.bool_]:
    """The mask as (tile, block, position, unit, row), False where it is filled up."""
    positions, channels = mask.shape
    tile, units = hardware.positions_per_tile, hardware.vector_units
    tiles, blocks = ceil(positions / tile), ceil(channels / hardware.rows_per_block)
    whole = np.zeros((tiles * tile, blocks * hardware.rows_per_block), dtype=np.bool_)
    whole[:positions, :channels] = mask
    neighbours = hardware.group_channels if hardware.selection == "groups" else 1
    rounds = hardware.rows_per_unit // neighbours
    split = whole.reshape(tiles, tile, blocks, rounds, units, neighbours)
    return split.transpose(0, 2, 1, 4, 3, 5).reshape(tiles, blocks, tile, units, hardware.rows_per_unit)


def _rows_of_units(channels: int, hardware: Hardware) -> Counts:
    """Output channels of each unit in each block, as (block, unit)."""
    one = np.ones((1, channels), dtype=np.bool_)
    return _by_unit(one, hardware)[0, :, 0].sum(axis=-1)


def _precise(
    layer: Layer, hardware: Hardware, by_unit: NDArray[np.bool_], tiles: Counts
) -> tuple[Counts, Counters]:
    """Cycles of each tile's precise pass, and what is counted in them."""
    items = by_unit.sum(axis=-1, dtype=np.int64)
    issue = _issue_cycles(items, hardware.run_ahead_positions)
    fetched = items.any(axis=-1).sum(axis=-1)
    fetch = -(-fetched // hardware.activation_words_per_cycle)
    least = np.where(fetched > 0, hardware.pipeline_depth_cycles, 0)
    has_rows = _rows_of_units(layer.out_channels, hardware) > 0
    chunks = ceil(layer.inputs_per_output / hardware.lanes)
    per_unit = items.sum(axis=2)
    lengths, states = _steps(issue, fetch, least, per_unit, has_rows)
    steps = int(per_unit.sum()) * chunks
    counters = Counters(
        precise_cycles=int(lengths.sum()) * chunks,
        busy_precise=steps,
        accumulator_updates=steps,
        row_words_read=steps,
        weight_words_read=int(by_unit.any(axis=2).sum()) * chunks,
        input_words_read=int(fetched.sum()) * chunks,
        **{name: value * chunks for name, value in states.items()},
    )
    return lengths.sum(axis=1) * chunks, counters


def _approximate(layer: Layer, hardware: Hardware, tiles: Counts) -> tuple[Counts, Counters]:
    """Cycles of each tile's approximate pass, and what is counted in them."""
    rows = _rows_of_units(layer.out_channels, hardware)
    quads = -(-rows // 4)  # an element multiplies by the weights of four rows at once
    chunks = ceil(layer.rank / hardware.lanes)
    per_unit = tiles[:, None, None] * quads
    issue = per_unit.max(axis=-1)
    fetch = np.broadcast_to(-(-tiles // hardware.activation_words_per_cycle)[:, None], issue.shape)
    least = np.full(issue.shape, hardware.pipeline_depth_cycles)
    lengths, states = _steps(issue, fetch, least, per_unit, rows > 0)
    steps = int(per_unit.sum()) * chunks
    positions = int(tiles.sum())
    counters = Counters(
        approximate_cycles=int(lengths.sum()) * chunks,
        busy_approximate=steps,
        accumulator_updates=positions * layer.out_channels * chunks,
        row_words_read=steps,
        weight_words_read=int(quads.sum()) * len(tiles) * chunks,
        projected_words_read=positions * len(rows) * chunks,
        **{name: value * chunks for name, value in states.items()},
    )
    return lengths.sum(axis=1) * chunks, counters


def _steps(
    issue: Counts, fetch: Counts, least: Counts, per_unit: Counts, has_rows: NDArray[np.bool_]
) -> tuple[Counts, dict[str, int]]:
    """Length of one step of each (tile, block), and the states of units that are not busy in it.

    Issue, fetch and the accumulators' pipeline overlap; the longest decides.
    """
    length = np.maximum(np.maximum(issue, fetch), least)
    rows = has_rows.sum(axis=-1)
    units = has_rows.shape[-1]
    return length, {
        "alignment": int((length * (units - rows)).sum()),
        "imbalance": int((issue * rows).sum() - per_unit.sum()),
        "activation_port": int((np.maximum(fetch - issue, 0) * rows).sum()),
        "depth": int((np.maximum(least - np.maximum(issue, fetch), 0) * rows).sum()),
    }


def _issue_cycles(items: Counts, run_ahead: int) -> Counts:
    """Cycles until the last item of each (tile, block) is issued.

    A unit that has items of position t issues one in each cycle, as soon as it is done with earlier positions
    and every unit is done with position t - run_ahead.
    """
    tiles, blocks, positions, units = items.shape
    run_ahead = min(run_ahead, positions)
    done = np.zeros((tiles, blocks, units), dtype=np.int64)
    all_done = np.zeros((positions + run_ahead, tiles, blocks, 1), dtype=np.int64)
    for t in range(positions):
        now = items[:, :, t]
        done = np.where(now > 0, np.maximum(done, all_done[t]) + now, done)
        all_done[t + run_ahead] = done.max(axis=-1, keepdims=True)
    return done.max(axis=-1)


def _timeline(
    hardware: Hardware, projection: Counts, approximate: Counts, precise: Counts
) -> tuple[tuple[Pass, ...], Counters]:
    """When each pass runs, and how long the vector units wait.

    The order is approximate 0, approximate 1, precise 0, approximate 2, precise 1, and so on: while a tile's
    mask is made, the next tile is approximated. The projection has room for two tiles.
    """
    tiles = len(precise)
    depth, latency = hardware.pipeline_depth_cycles, hardware.selection_latency_cycles
    passes: list[Pass] = []
    projected: list[int] = []
    approximated: list[int] = []
    clock = projection_wait = selection_wait = 0

    def project(tile: int) -> None:
        room = approximated[tile - 2] if tile >= 2 else 0
        start = max(projected[-1] if projected else 0, room)
        projected.append(start + int(projection[tile]))
        passes.append(Pass("projection", tile, start, projected[-1]))

    for step in range(tiles + 1):
        if step < tiles:
            project(step)
            start = max(clock, projected[step])
            projection_wait += start - clock
            clock = start + int(approximate[step])
            approximated.append(clock)
            passes.append(Pass("approximate", step, start, clock))
        if step > 0:
            start = max(clock, approximated[step - 1] + depth + latency)
            selection_wait += start - clock
            clock = start + int(precise[step - 1])
            passes.append(Pass("precise", step - 1, start, clock))
    waits = Counters(
        cycles=clock + depth,
        projection_stall_cycles=projection_wait,
        selection_stall_cycles=selection_wait,
        drain_cycles=depth,
    )
    return tuple(passes), waits


def _comparisons(channels: int, hardware: Hardware) -> int:
    """Comparisons for one position: each output with the threshold, or all pairs of a group."""
    if hardware.selection == "threshold":
        return channels
    whole, rest = divmod(channels, hardware.group_channels)
    return whole * _pairs(hardware.group_channels) + _pairs(rest)


def _pairs(size: int) -> int:
    return size * (size - 1) // 2


def _words_with_essential(mask: Mask, lanes: int) -> int:
    """Words of `lanes` channels in which a precise output is written."""
    starts = range(0, mask.shape[1], lanes)
    return sum(int(mask[:, start : start + lanes].any(axis=1).sum()) for start in starts)
