"""Stage `finetune`: one variant. Put the noise where the configuration says, train with it, measure it.

Writes `model.safetensors`, `model.json`, `history.json` and `.csv`, `densities.json` and `.csv` (share of
precise neurons of each layer, measured on training images), `bitops.json`, and two pictures.
"""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from nenni_core.bitops import bitops
from nenni_core.defenses import make_defense
from nenni_core.defenses.continued import Continued
from nenni_core.distill import calibrate
from nenni_core.inject import set_injection, set_layer_ratios
from nenni_core.masks import mask_densities
from nenni_core.randomness import derive_seed, set_noise
from pipeline import figures
from pipeline.artifacts import MODEL, load_prepared, load_spec, save_model
from pipeline.config import FineTune
from pipeline.defense_choice import DefenseChoice
from pipeline.files import write_csv, write_json
from pipeline.learning import fit, history_rows, summary
from pipeline.runtime import Runtime

DENSITIES, BITOPS = "densities.json", "bitops.json"


def run(
    config: FineTune, inputs: Mapping[str, Path], out: Path, *, seed: int, runtime: Runtime
) -> dict[str, float]:
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
    rule: dict[str, Any] = {"selection": config.selection, "score": config.score, "target": config.target}
    if config.layer_ratios is None:
        rule |= {"ratio": config.ratio, "pattern": config.pattern}
    set_injection(model, **rule, gradient="straight_through")
    if config.layer_ratios is not None:
        set_layer_ratios(model, config.layer_ratios)
    spec = replace(spec, injection=replace(spec.injection, **rule), layer_ratios=config.layer_ratios)

    images = data.train.limited(config.calibration_images, derive_seed(seed, "finetune", "calibration"))
    batches = images.batches(config.batch_size, runtime.device)
    if config.selection == "threshold":
        calibrate(model, batches)
    built_by = DefenseChoice(**spec.defense).defense()
    loss = Continued(objective=make_defense(config.objective), built_by=built_by)
    result = fit(model, data, config.recipe(), loss, out, seed=derive_seed(seed, "finetune"), runtime=runtime)
    model.load_state_dict(result.best if config.checkpoint == "best" else result.last)
    set_noise(model, "training", derive_seed(seed, "finetune", "measure"))
    if config.selection == "threshold":
        calibrate(model, batches)

    model.eval()
    measured = mask_densities(model, batches)
    nominal_cost = bitops(model, data.image_shape)
    cost = bitops(model, data.image_shape, measured)
    nominal = {layer.name: layer.density for layer in nominal_cost.layers}
    save_model(out, spec, {MODEL: model.state_dict()})
    rows = [
        {"index": i, "layer": name, "density": density, "nominal": nominal[name]}
        for i, (name, density) in enumerate(measured.items())
    ]
    write_json(out / DENSITIES, measured)
    write_csv(out / "densities.csv", list(rows[0]), rows)
    write_json(
        out / BITOPS,
        {
            "dense": cost.dense,
            "nominal": nominal_cost.total,
            "measured": cost.total,
            "layers": [asdict(layer) for layer in cost.layers],
        },
    )
    figures.learning_curve(history_rows(result), out / "learning_curve.png")
    figures.densities(rows, out / "densities.png")
    return summary(result) | {
        "mean_density": sum(measured.values()) / len(measured),
        "bitops_dense": cost.dense,
        "bitops_nominal": nominal_cost.total,
        "bitops_measured": cost.total,
        "bitops_ratio": cost.ratio,
    }


if __name__ == "__main__":
    from pipeline.stages.command import main

    main("finetune")
