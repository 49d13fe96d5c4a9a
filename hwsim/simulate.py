"""A layer, or a network layer by layer: what the machine does, and what that costs."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from hwsim import fast, reference
from hwsim.costs import Costs
from hwsim.counters import Counters, LayerTrace, Pass
from hwsim.errors import InputError, unknown_choice
from hwsim.hardware import Hardware
from hwsim.layers import Layer
from hwsim.masks import Mask, check_mask
from hwsim.memory import check_capacity, place, plan_transfers
from hwsim.results import LayerResult, NetworkResult
from hwsim.technology import Technology

Engine = Literal["fast", "reference"]


def simulate_layer(
    layer: Layer, hardware: Hardware, mask: Mask | None = None, *, images: int = 1, engine: Engine = "fast"
) -> LayerTrace:
    """One convolution with all its data in place.

    The groups of a grouped convolution run one after the other.

    Args:
        layer: its shape.
        hardware: the design.
        mask: (images * positions, channels), True where an output is precise; None runs the layer dense,
            without approximation.
        images: images that are computed together.
        engine: "fast", or "reference", which steps through all cycles.

    Raises:
        InputError: a mask of another shape, one that has no pattern where the hardware selects from groups,
            a memory that is too small for one tile, or no image.
    """
    if images < 1:
        raise InputError(f"images is {images}; expected a count from 1 on")
    check_capacity(layer, hardware, noisy=mask is not None)
    if mask is not None:
        check_mask(layer, mask, images)
        if hardware.selection == "groups":
            if layer.groups > 1 and layer.outputs_per_group % hardware.group_channels:
                raise InputError(
                    f"layer {layer.name!r} has {layer.outputs_per_group} channels in each of {layer.groups} "
                    f"groups, no multiple of the {hardware.group_channels} that {hardware.name!r} selects "
                    "from; expected a core for any mask"
                )
            check_groups(layer, mask, hardware)
    run = {"fast": fast, "reference": reference}[engine].simulate_group
    part = replace(
        layer,
        in_channels=layer.in_channels // layer.groups,
        out_channels=layer.outputs_per_group,
        groups=1,
    )
    counters, passes = Counters(), list[Pass]()
    for group in range(layer.groups):
        own = slice(group * part.out_channels, (group + 1) * part.out_channels)
        trace = run(part, hardware, None if mask is None else mask[:, own], images)
        shift = counters.cycles
        passes += [replace(one, start=one.start + shift, end=one.end + shift) for one in trace.passes]
        counters += trace.counters
    return LayerTrace(counters, tuple(passes))


def check_groups(layer: Layer, mask: Mask, hardware: Hardware) -> None:
    """Raise `InputError` unless all groups of channels keep as many neurons, as the selection makes them."""
    size = hardware.group_channels
    whole = mask.shape[1] - mask.shape[1] % size
    kept = mask[:, :whole].reshape(len(mask), -1, size).sum(axis=-1)
    if kept.size and kept.min() != kept.max():
        raise InputError(
            f"mask of layer {layer.name!r} has no pattern: {hardware.name!r} keeps as many of each {size} "
            f"channels, the mask keeps {kept.min()} of some and {kept.max()} of others"
        )


def simulate_network(
    layers: Sequence[Layer],
    hardware: Hardware,
    technology: Technology,
    masks: Mapping[str, Mask] | None = None,
    *,
    images: int = 1,
    network: str = "network",
    noise: str = "dense",
    engine: Engine = "fast",
) -> NetworkResult:
    """All layers, one after the other; with `dram_bytes_per_cycle` they wait for their data.

    Args:
        layers: in the order in which they run.
        hardware: the design.
        technology: what things cost.
        masks: by the layers' names; a layer that it lacks runs dense, and None runs all of them dense.
        images: images that are computed together.
        network: what the result is called.
        noise: what the result says of the masks.
        engine: as for `simulate_layer`.

    Raises:
        InputError: as `simulate_layer`, no layers, or a mask of a layer that there is not.
    """
    if not layers:
        raise InputError("the network has no layers; expected at least one")
    names = [layer.name for layer in layers]
    for name in masks or ():
        if name not in names:
            raise unknown_choice("layer", name, names)
    of = [None if masks is None else masks.get(name) for name in names]
    counters = [
        simulate_layer(layer, hardware, mask, images=images, engine=engine).counters
        for layer, mask in zip(layers, of, strict=True)
    ]
    starts = [sum(before.cycles for before in counters[:i]) for i in range(len(counters))]
    if hardware.dram_bytes_per_cycle is not None:
        transfers = plan_transfers(layers, hardware, [mask is not None for mask in of], images)
        run = {"fast": place, "reference": reference.place}[engine]
        placed = run([one.cycles for one in counters], transfers, hardware.dram_bytes_per_cycle)
        starts = [one.start for one in placed]
        counters = [
            one
            + Counters(
                cycles=where.stall,
                dram_stall_cycles=where.stall,
                dram_weight_bytes=moved.preload + moved.streamed_weights,
                dram_input_bytes=moved.inputs,
                dram_output_bytes=moved.outputs,
            )
            for one, where, moved in zip(counters, placed, transfers, strict=True)
        ]
    costs = Costs(hardware, technology)
    return NetworkResult(
        network=network,
        noise=noise,
        images=images,
        hardware=hardware,
        technology=technology.name,
        technology_digest=technology.digest,
        layers=tuple(
            LayerResult(
                layer=layer,
                start_cycle=start,
                density=1.0 if mask is None else float(mask.mean()),
                counters=one,
                energy_pj=costs.energy_pj(one),
            )
            for layer, start, mask, one in zip(layers, starts, of, counters, strict=True)
        ),
        area_um2=costs.area_um2,
    )
