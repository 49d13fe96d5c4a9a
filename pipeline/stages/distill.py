"""Stage `distill`: learn the low-precision approximation of every convolution from the trained teacher.

Writes `model.safetensors`, `model.json`, the quality of each layer as `layers.json` and `layers.csv`, and
`distillation.png`.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from nenni_core.distill import distill
from nenni_core.inject import inject
from nenni_core.injection import Injection
from nenni_core.randomness import derive_seed, set_noise
from pipeline import figures
from pipeline.artifacts import MODEL, load_model, load_prepared, load_spec, save_model, teacher_folder
from pipeline.config import Distill
from pipeline.files import write_csv, write_json
from pipeline.runtime import Runtime

LAYERS = "layers.json"


def injection_of(config: Distill, seed: int) -> Injection:
    """How the approximation is built; where the noise goes is decided by `finetune`."""
    return Injection(
        ratio=config.recall_ratio,
        projection_ratio=config.projection_ratio,
        bits=config.bits,
        scale=config.scale,
        quantize_projected=config.quantize_projected,
        randomize=config.randomize,
        bank_size=config.bank_size,
        seed=derive_seed(seed, "injection"),
    )


def run(
    config: Distill, inputs: Mapping[str, Path], out: Path, *, seed: int, runtime: Runtime
) -> dict[str, float]:
    """Distil from training images; returns means over the layers."""
    data = load_prepared(inputs["prepare"])
    trained = teacher_folder(inputs)
    spec = load_spec(trained).with_injection(injection_of(config, seed))
    teacher = load_model(trained, f"{config.checkpoint}.safetensors")
    assert spec.injection is not None
    model = inject(teacher, spec.injection).to(runtime.device).eval()
    set_noise(model, "training", derive_seed(seed, "distill"))
    images = data.train.limited(config.images, derive_seed(seed, "distill", "images"))
    quality = distill(
        model,
        images.batches(config.batch_size, runtime.device),
        solver=config.solver,
        epochs=config.epochs,
        learning_rate=config.learning_rate,
        momentum=config.momentum,
        ridge=config.ridge,
        on_progress=runtime.progress,
    )
    save_model(out, spec, {MODEL: model.state_dict()})
    rows = [asdict(layer) for layer in quality]
    write_json(out / LAYERS, rows)
    write_csv(out / "layers.csv", list(rows[0]), rows)
    figures.distillation(rows, out / "distillation.png")
    measures = ("nmse", "nmse_quantized", "top_k_recall")
    return {f"mean_{name}": sum(row[name] for row in rows) / len(rows) for name in measures}


if __name__ == "__main__":
    from pipeline.stages.command import main

    main("distill")
