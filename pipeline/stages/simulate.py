"""Stage `simulate`: what one variant costs on the accelerator, with the masks of real images and random ones.

Writes `masks.safetensors` (as `python -m hwsim run --masks` reads them), `simulation.json` and `.csv` (one
row for each core and kind of masks: means over the images, and over the dense network), and `layers.csv`
(measured masks: where the cycles of each layer went).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import numpy as np
from torch import nn

from hwsim.explain import shares
from hwsim.hardware import Hardware
from hwsim.layers import Layer
from hwsim.masks import Mask, Pattern, random_mask, save_masks, unpack
from hwsim.sweep import FIGURES, Noise, Origin, Point, can_run, sweep
from hwsim.technology import load_technology
from nenni_core.chain.artifacts import MODEL, Split, load_model, load_prepared, load_spec
from nenni_core.chain.runtime import Runtime
from nenni_core.errors import InputError
from nenni_core.files import write_csv, write_json
from nenni_core.inject import injected_layers
from nenni_core.injection import Injection
from nenni_core.masks import masks, pack_mask
from nenni_core.randomness import derive_seed, set_noise
from nenni_core.shapes import layer_shapes
from pipeline.config import SimulateRun

MASKS, SIMULATION = "masks.safetensors", "simulation.json"
PER_LAYER = "by layer"
"""What the noise is called where every layer has a ratio of its own."""


def run(
    config: SimulateRun, inputs: Mapping[str, Path], out: Path, *, seed: int, runtime: Runtime
) -> dict[str, float]:
    """Simulate the fine-tuned network on real images; random masks have as much noise as it is configured to.

    A layer that is configured to have none runs dense (`hwsim run --masks` would predict for it, too). The
    choice of images depends on nothing but the data, so that all variants are measured on the same.
    """
    data = load_prepared(inputs["prepare"])
    spec = load_spec(inputs["finetune"])
    injection = spec.injection
    assert injection is not None
    model = load_model(inputs["finetune"], MODEL, device=runtime.device)
    set_noise(model, "inference", derive_seed(seed, "simulate", "noise"))
    layers = [Layer(**asdict(shape)) for shape in layer_shapes(model, data.image_shape)]
    noisy = injected_layers(model)
    for layer in layers:
        if layer.name not in noisy:
            raise InputError(
                f"layer {layer.name!r} runs without noise, or more than once in a forward pass; the "
                "simulation expects a network all of whose layers have noise and run once"
            )
    images = data.split(config.split).limited(config.images, 0)
    measured = _measured(model, images, config.batch_size, runtime.device)
    whole = {layer.name: np.concatenate([batch[layer.name] for batch in measured]) for layer in layers}
    rules = {layer.name: noisy[layer.name].injection for layer in layers}
    if spec.layer_ratios is None:
        label, share = injection.label, float(1 - injection.density)
    else:
        label, share = PER_LAYER, _noisy_share(layers, rules)
    about = {"noise": label, "noisy_share": repr(share), "network": spec.name}
    about |= {"pattern": injection.pattern} if injection.pattern is not None else {}
    save_masks(out / MASKS, whole, images=config.images, about=about)

    pattern = None if injection.pattern is None else Pattern.parse(injection.pattern)
    cores = [
        core
        for values in config.hardware
        if can_run(
            core := Hardware(**values | {"dram_bytes_per_cycle": config.dram_bytes_per_cycle}), pattern
        )
    ]
    if not cores:
        raise InputError(
            f"simulate.cores: none of {', '.join(config.cores)} can run {label}; expected "
            "one for any mask, such as 'unstructured'"
        )

    with_noise = [layer for layer in layers if rules[layer.name].density != 1]

    def noise(origin: Origin, batch: int) -> Noise:
        chosen = {layer.name: measured[batch][layer.name] for layer in with_noise}
        if origin == "random":
            rng = np.random.default_rng([derive_seed(seed, "simulate", "random masks"), batch])
            chosen = {
                layer.name: random_mask(
                    layer, rng, ratio=rules[layer.name].ratio, pattern=pattern, images=config.batch_size
                )
                for layer in with_noise
            }
        return Noise(
            label=label,
            pattern=pattern,
            share=share,
            masks=chosen,
            images=config.batch_size,
            origin=origin,
        )

    origins: tuple[Origin, ...] = ("measured", "random")
    everything = sweep(
        spec.name,
        layers,
        [partial(noise, origin, batch) for origin in origins for batch in range(len(measured))],
        cores,
        load_technology(config.technology),
        progress=lambda done, total: runtime.progress("simulation", done, total),
    )
    points = [point for point in everything if point.noise.origin in origins]
    rows = _rows(points)
    write_json(out / SIMULATION, {"rows": rows, "dense": points[0].dense.as_dict()["total"]})
    write_csv(out / "simulation.csv", list(rows[0]), rows)
    by_layer = _layer_rows(points)
    write_csv(out / "layers.csv", list(by_layer[0]), by_layer)
    metrics = {"images": float(config.images)}
    for row in rows:
        for name in (*FIGURES, *(f"{figure}_over_dense" for figure in FIGURES)):
            metrics[f"{name}/{row['core']}/{row['masks']}"] = row[name]
    return metrics


def _noisy_share(layers: Sequence[Layer], rules: Mapping[str, Injection]) -> float:
    """The share of all neurons that are configured to get noise."""
    noisy = sum((1 - rules[layer.name].density) * layer.output_values for layer in layers)
    return float(noisy / sum(layer.output_values for layer in layers))


def _measured(model: nn.Module, images: Split, batch_size: int, device: str) -> list[dict[str, Mask]]:
    """The masks of the network, batch by batch, as the simulator reads them."""
    batches = []
    for x in images.batches(batch_size, device):
        found = masks(model, x)
        batches.append({name: unpack(pack_mask(mask), mask.shape[1]) for name, mask in found.items()})
    return batches


def _rows(points: Sequence[Point]) -> list[dict[str, Any]]:
    """Means over the batches, one row for each core and kind of masks."""
    rows = []
    for name, origin in dict.fromkeys((p.result.hardware.name, p.noise.origin) for p in points):
        own = [p.row() for p in points if (p.result.hardware.name, p.noise.origin) == (name, origin)]
        numbers = [key for key, value in own[0].items() if isinstance(value, (int, float))]
        means = {key: fmean(row[key] for row in own) for key in numbers}
        rows.append(own[0] | means | {"cycles_deviation": pstdev(row["cycles"] for row in own)})
    return rows


def _layer_rows(points: Sequence[Point]) -> list[dict[str, Any]]:
    """Where the cycles went with measured masks: means over the batches, by core and layer."""
    rows = []
    measured = [point.result for point in points if point.noise.origin == "measured"]
    for name in dict.fromkeys(result.hardware.name for result in measured):
        own = [result for result in measured if result.hardware.name == name]
        for index, layer in enumerate(own[0].layers):
            of = [result.layers[index] for result in own]
            causes = [shares(one.counters, result.hardware) for one, result in zip(of, own, strict=True)]
            rows.append(
                {
                    "core": name,
                    "layer": layer.layer.name,
                    "density": fmean(one.density for one in of),
                    "cycles": fmean(one.counters.cycles for one in of),
                    "energy_pj": fmean(sum(one.energy_pj.values()) for one in of),
                }
                | {
                    cause.cause.replace(" ", "_"): fmean(batch[i].of_all for batch in causes)
                    for i, cause in enumerate(causes[0])
                }
            )
    return rows


if __name__ == "__main__":
    from pipeline.stages.command import main

    main("simulate")
