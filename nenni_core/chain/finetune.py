"""Stage `finetune`: one variant. Put the noise where the settings say, train with it, measure it.

Writes `model.safetensors`, `model.json`, `history.json` and `.csv`, `densities.json` and `.csv` (share of
precise neurons of each layer, measured on training images), `bitops.json` and `timing.json`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from safetensors.torch import load_file

from nenni_core.bitops import bitops
from nenni_core.chain.artifacts import MODEL, defense_of, load_prepared, load_spec, save_model
from nenni_core.chain.learning import fit, summary
from nenni_core.chain.runtime import Runtime
from nenni_core.defenses import make_defense
from nenni_core.defenses.continued import Continued
from nenni_core.distill import calibrate
from nenni_core.files import write_csv, write_json
from nenni_core.inject import set_injection, set_layer_ratios
from nenni_core.masks import mask_densities
from nenni_core.randomness import derive_seed, set_noise
from nenni_core.training import Recipe

DENSITIES, DENSITIES_CSV, BITOPS = "densities.json", "densities.csv", "bitops.json"


@dataclass(frozen=True, kw_only=True)
class FineTuneSettings:
    """Where the noise goes (one of `ratio`, `pattern`, `layer_ratios`), and how the network learns."""

    ratio: float | None
    pattern: str | None
    layer_ratios: dict[str, float] | None
    objective: str
    """Key of `nenni_core.defenses.DEFENSES`: whose loss is minimised."""
    selection: Literal["top_k", "threshold"]
    score: Literal["magnitude", "signed"]
    target: Literal["non_essential", "essential", "random"]
    checkpoint: Literal["best", "last"]
    """Which epoch's weights are kept."""
    calibration_images: int | None
    """Training images for thresholds and densities, class-balanced; None for all."""
    recipe: Recipe


def finetune(
    settings: FineTuneSettings, inputs: Mapping[str, Path], out: Path, *, seed: int, runtime: Runtime
) -> dict[str, float | int]:
    """Fine-tune the distilled model with its noise in place, through straight-through gradients.

    Thresholds (`selection: threshold`) are calibrated before the training, so that it sees the masks that it
    will be used with, and again after it, because the weights have moved. Raises `TrainingDiverged`.
    """
    data = load_prepared(inputs["prepare"])
    spec = load_spec(inputs["distill"])
    assert spec.injection is not None
    model = spec.build()
    model.load_state_dict(load_file(inputs["distill"] / MODEL))
    model.to(runtime.device)
    set_noise(model, "training", derive_seed(seed, "finetune"))
    rule: dict[str, Any] = {
        "selection": settings.selection,
        "score": settings.score,
        "target": settings.target,
    }
    if settings.layer_ratios is None:
        rule |= {"ratio": settings.ratio, "pattern": settings.pattern}
    set_injection(model, **rule, gradient="straight_through")
    if settings.layer_ratios is not None:
        set_layer_ratios(model, settings.layer_ratios)
    spec = replace(spec, injection=replace(spec.injection, **rule), layer_ratios=settings.layer_ratios)

    images = data.train.limited(settings.calibration_images, derive_seed(seed, "finetune", "calibration"))
    batches = images.batches(settings.recipe.batch_size, runtime.device)
    if settings.selection == "threshold":
        calibrate(model, batches)
    loss = Continued(objective=make_defense(settings.objective), built_by=defense_of(spec.defense))
    result = fit(model, data, settings.recipe, loss, out, seed=derive_seed(seed, "finetune"), runtime=runtime)
    model.load_state_dict(result.best if settings.checkpoint == "best" else result.last)
    set_noise(model, "training", derive_seed(seed, "finetune", "measure"))
    if settings.selection == "threshold":
        calibrate(model, batches)

    model.eval()
    measured = mask_densities(model, batches)
    nominal_cost = bitops(model, data.image_shape)
    cost = bitops(model, data.image_shape, measured)
    save_model(out, spec, {MODEL: model.state_dict()})
    write_json(out / DENSITIES, measured)
    nominal = {layer.name: layer.density for layer in nominal_cost.layers}
    rows = [
        {"index": i, "layer": name, "density": density, "nominal": nominal[name]}
        for i, (name, density) in enumerate(measured.items())
    ]
    write_csv(out / DENSITIES_CSV, list(rows[0]), rows)
    write_json(
        out / BITOPS,
        {
            "dense": cost.dense,
            "nominal": nominal_cost.total,
            "measured": cost.total,
            "layers": [asdict(layer) for layer in cost.layers],
        },
    )
    return summary(result) | {
        "mean_density": sum(measured.values()) / len(measured),
        "bitops_dense": cost.dense,
        "bitops_nominal": nominal_cost.total,
        "bitops_measured": cost.total,
        "bitops_ratio": cost.ratio,
    }
