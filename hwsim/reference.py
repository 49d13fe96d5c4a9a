"""The rules of the machine, stepped cycle by cycle. Slow; what `hwsim.fast` computes must equal it.

The rules, for one convolution:

1. Output positions are cut into tiles, output channels into blocks of as many rows as the vector units hold.
   Within a block, channel i belongs to unit i mod V, or, where groups of M channels are selected from, to
   unit (i div M) mod V. The dot product is cut into chunks of as many values as a unit has lanes.
2. Precise pass of a tile: block after block, chunk after chunk. In one such step each unit has a queue of
   its essential outputs, ordered by position. In each cycle a unit takes the head of its queue, if that is
   less than `run_ahead_positions` ahead of the earliest position in any queue.
3. Meanwhile the inputs of all positions that a unit of the block needs are read,
   `activation_words_per_cycle` in each cycle. A step in which anything is computed takes at least
   `pipeline_depth_cycles`: the next chunk adds to the same accumulators.
4. Approximate pass of a tile: the same over the projected inputs, for all outputs; one item covers four rows.
5. The projection works ahead by at most two tiles: it adds up what the entries of P select, in each cycle
   `projection_adders` values from `activation_words_per_cycle` words at most. A tile's approximate pass waits
   for its projection, its precise pass for its mask: the pipeline empties, then the selection takes its time.
   While the mask of a tile is made, the next tile is approximated. The layer ends when the pipeline is empty.
6. Approximate outputs are written when they are made, precise ones over them.

This file shares the description of hardware and layers with `hwsim.fast`, and nothing else.
"""

from collections import Counter, deque
from collections.abc import Iterator, Sequence

from hwsim.counters import Counters, LayerTrace, Pass
from hwsim.hardware import Hardware
from hwsim.layers import Layer
from hwsim.masks import Mask
from hwsim.memory import Placement, Transfers


def simulate_group(layer: Layer, hardware: Hardware, mask: Mask | None, images: int) -> LayerTrace:
    """A convolution of one group: with noise where the mask is False, dense without a mask."""
    return _Machine(layer, hardware, mask, images).run()


class _Machine:
    def __init__(self, layer: Layer, hardware: Hardware, mask: Mask | None, images: int) -> None:
        self.layer, self.hardware, self.mask = layer, hardware, mask
        positions = list(range(layer.positions * images))
        size = hardware.positions_per_tile
        self.tiles = [positions[i : i + size] for i in range(0, len(positions), size)]
        channels = list(range(layer.out_channels))
        size = hardware.rows_per_block
        self.blocks = [channels[i : i + size] for i in range(0, len(channels), size)]
        self.count: Counter[str] = Counter()
        self.passes: list[Pass] = []

    def run(self) -> LayerTrace:
        clock = 0
        noisy = self.mask is not None
        tiles = range(len(self.tiles))
        order: deque[tuple[str, int]] = deque()
        for tile in tiles:
            if noisy:
                order.append(("approximate", tile))
            if not noisy:
                order.append(("precise", tile))
            elif tile > 0:
                order.append(("precise", tile - 1))
        if noisy:
            order.append(("precise", len(self.tiles) - 1))

        projected: dict[int, int] = {}  # tile: the cycle from which on its projected inputs are there
        approximated: dict[int, int] = {}
        to_project = deque(tiles if noisy else ())
        additions_left = reads_left = 0
        projecting_since = 0
        working: Iterator[str] | None = None
        part, tile, start = "", 0, 0
        while order or working:
            # the matrix-vector unit: finish, begin, or wait
            waiting_for = ""
            active = False
            while True:
                if working is None:
                    if not order:
                        break
                    part, tile = order[0]
                    if part == "approximate" and projected.get(tile, clock + 1) > clock:
                        waiting_for = "projection_stall_cycles"
                        break
                    if part == "precise" and noisy:
                        ready = approximated[tile] + self.hardware.pipeline_depth_cycles
                        if clock < ready + self.hardware.selection_latency_cycles:
                            waiting_for = "selection_stall_cycles"
                            break
                    order.popleft()
                    start = clock
                    working = self.approximate(tile) if part == "approximate" else self.precise(tile)
                if next(working, None) is not None:
                    active = True
                    break
                working = None
                self.passes.append(Pass(part, tile, start, clock))
                if part == "approximate":
                    approximated[tile] = clock
            if not active and not waiting_for:
                break
            # the projection: it begins a tile when the one before is done and there is room for its result
            if additions_left == reads_left == 0 and to_project:
                upcoming = to_project[0]
                if upcoming < 2 or upcoming - 2 in approximated:
                    additions_left, reads_left = self.begin_projection(upcoming)
                    projecting_since = clock
            clock += 1
            self.count[waiting_for or f"{part}_cycles"] += 1
            if additions_left > 0 or reads_left > 0:
                additions_left = max(0, additions_left - self.hardware.projection_adders)
                reads_left = max(0, reads_left - self.hardware.activation_words_per_cycle)
                if additions_left == reads_left == 0:
                    done = to_project.popleft()
                    projected[done] = clock
                    self.passes.append(Pass("projection", done, projecting_since, clock))
        for _ in range(self.hardware.pipeline_depth_cycles):
            clock += 1
            self.count["drain_cycles"] += 1
        self.count["cycles"] = clock
        return LayerTrace(Counters(**self.count), tuple(self.passes))

    def begin_projection(self, tile: int) -> tuple[int, int]:
        """Count what the projection of a tile reads, writes and adds; return its additions and inputs."""
        lanes = self.hardware.lanes
        additions = reads = 0
        entries = self.layer.rank * self.layer.inputs_per_output
        self.count["projection_entry_words_read"] += len(range(0, 2 * entries, 8 * self.hardware.word_bytes))
        for _ in self.tiles[tile]:
            reads += len(range(0, self.layer.inputs_per_output, lanes))
            self.count["projected_words_written"] += len(range(0, self.layer.rank, lanes))
            additions += self.layer.projection_nonzeros
        self.count["projection_additions"] += additions
        self.count["projection_words_read"] += reads
        return additions, reads

    def unit_of(self, channel: int) -> int:
        """The vector unit that computes a channel."""
        if self.hardware.selection == "groups":
            channel //= self.hardware.group_channels
        return channel % self.hardware.vector_units

    def rows_of(self, block: list[int]) -> list[list[int]]:
        """The block's channels, unit by unit."""
        rows: list[list[int]] = [[] for _ in range(self.hardware.vector_units)]
        for channel in block:
            rows[self.unit_of(channel - block[0])].append(channel)
        return rows

    def precise(self, tile: int) -> Iterator[str]:
        """One cycle of the precise pass for each value."""
        mask, lanes = self.mask, self.hardware.lanes
        needed: set[tuple[int, int]] = set()
        for position in self.tiles[tile]:
            for channel in range(self.layer.out_channels):
                if mask is None or mask[position, channel]:
                    needed.add((position, channel))
        self.count["output_words_written"] += len({(position, c // lanes) for position, c in needed})
        for block in self.blocks:
            rows = self.rows_of(block)
            for values in self.chunks(self.layer.inputs_per_output):
                queues = [
                    deque((t, c) for t, p in enumerate(self.tiles[tile]) for c in unit if (p, c) in needed)
                    for unit in rows
                ]
                reads = len({t for queue in queues for t, _ in queue})
                self.count["input_words_read"] += reads
                self.count["weight_words_read"] += len({c for queue in queues for _, c in queue})
                for queue in queues:
                    for _ in queue:
                        self.count["multiplications_16x16"] += len(values)
                        self.count["accumulations"] += len(values)
                        self.count["accumulator_updates"] += 1
                yield from self.step(queues, rows, reads, "busy_precise")

    def approximate(self, tile: int) -> Iterator[str]:
        """One cycle of the approximate pass for each value."""
        for _ in self.tiles[tile]:
            self.count["output_words_written"] += len(range(0, self.layer.out_channels, self.hardware.lanes))
            self.count["comparisons"] += self.comparisons()
        for block in self.blocks:
            rows = self.rows_of(block)
            quads = [[unit[i : i + 4] for i in range(0, len(unit), 4)] for unit in rows]
            for values in self.chunks(self.layer.rank):
                queues = [
                    deque((t, quad[0]) for t in range(len(self.tiles[tile])) for quad in unit)
                    for unit in quads
                ]
                for unit in quads:
                    self.count["weight_words_read"] += len(unit)
                    for quad in unit:
                        products = len(quad) * len(values) * len(self.tiles[tile])
                        self.count["multiplications_4x16"] += products
                        self.count["accumulations"] += products
                        self.count["accumulator_updates"] += len(quad) * len(self.tiles[tile])
                reads = len(self.tiles[tile])
                self.count["projected_words_read"] += reads
                yield from self.step(queues, rows, reads, "busy_approximate")

    def step(
        self, queues: list[deque[tuple[int, int]]], rows: list[list[int]], reads: int, busy: str
    ) -> Iterator[str]:
        """One chunk of one block, cycle by cycle."""
        cycle = 0
        anything = any(queues)
        while any(queues) or reads > 0 or (anything and cycle < self.hardware.pipeline_depth_cycles):
            issuing = any(queues)
            earliest = min((queue[0][0] for queue in queues if queue), default=0)
            for queue, held in zip(queues, rows, strict=True):
                if queue and queue[0][0] < earliest + self.hardware.run_ahead_positions:
                    queue.popleft()
                    self.count[busy] += 1
                    self.count["row_words_read"] += 1
                elif not held:
                    self.count["alignment"] += 1
                elif issuing:
                    self.count["imbalance"] += 1
                elif reads > 0:
                    self.count["activation_port"] += 1
                else:
                    self.count["depth"] += 1
            reads -= min(reads, self.hardware.activation_words_per_cycle)
            cycle += 1
            yield busy

    def chunks(self, length: int) -> list[range]:
        """The dot product in pieces of as many values as there are lanes."""
        return [range(i, min(i + self.hardware.lanes, length)) for i in range(0, length, self.hardware.lanes)]

    def comparisons(self) -> int:
        """For one position: each output with the threshold, or every pair of a group."""
        channels = list(range(self.layer.out_channels))
        if self.hardware.selection == "threshold":
            return len(channels)
        size = self.hardware.group_channels
        groups = [channels[i : i + size] for i in range(0, len(channels), size)]
        return sum(1 for group in groups for a in group for b in group if a < b)


def place(
    cycles: Sequence[int], transfers: Sequence[Transfers], bytes_per_cycle: int
) -> tuple[Placement, ...]:
    """When layers run whose weights come from outside: cycle by cycle, byte by byte.

    In each cycle the layer that runs moves what it still has to move; if that is nothing, the weights of the
    next layer come in, as soon as there is room for them. A transfer has whole cycles.
    """
    placed: list[Placement] = []
    clock = 0
    running: int | None = None
    began = computing = streaming = stalled = 0
    upcoming, loading = 0, transfers[0].preload
    while len(placed) < len(cycles):
        if running is None and loading == 0:
            running, began = upcoming, clock
            computing, streaming = cycles[running], transfers[running].streamed
            upcoming += 1
            loading = transfers[upcoming].preload if upcoming < len(cycles) else 0
        if running is not None and computing == 0 and streaming == 0:
            placed.append(Placement(began, clock, stalled))
            running, stalled = None, 0
            continue
        stalled += computing == 0
        if streaming > 0:
            streaming = max(0, streaming - bytes_per_cycle)
        elif loading > 0 and (running is None or transfers[upcoming].room_before):
            loading = max(0, loading - bytes_per_cycle)
        if running is not None:
            computing = max(0, computing - 1)
        clock += 1
    return tuple(placed)
