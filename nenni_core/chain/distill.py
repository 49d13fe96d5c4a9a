"""Stage `distill`: learn the low-precision approximation of every convolution from the trained teacher.

Writes `model.safetensors`, `model.json`, the quality of each layer as `layers.json` and `layers.csv`, and
`timing.json`, which is about the process that came to the end: an earlier one may have had a part.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from nenni_core.chain.artifacts import (
    MODEL,
    load_model,
    load_prepared,
    load_spec,
    save_model,
    teacher_folder,
)
from nenni_core.chain.runtime import Runtime
from nenni_core.chain.speed import Gauge
from nenni_core.distill import MEASURING, distill
from nenni_core.files import write_csv, write_json
from nenni_core.inject import inject
from nenni_core.injection import Injection
from nenni_core.randomness import derive_seed, set_noise

LAYERS = "layers.json"


@dataclass(frozen=True, kw_only=True)
class DistillSettings:
    """What the approximation is a function of, beside the teacher and the images."""

    checkpoint: Literal["best", "last"]
    """Which weights of the teacher."""
    projection_ratio: float
    bits: int
    scale: Literal["per_layer", "per_channel"]
    quantize_projected: bool
    randomize: Literal["fixed", "bank", "stochastic_rounding"]
    bank_size: int
    recall_ratio: float
    """Injection ratio at which the recall is reported; `finetune` decides where the noise goes."""
    solver: Literal["least_squares", "sgd"]
    epochs: int
    learning_rate: float
    momentum: float
    ridge: float
    images: int | None
    """Training images to distil from, class-balanced; None for all."""
    batch_size: int

    def injection(self, seed: int) -> Injection:
        """How the approximation is built."""
        return Injection(
            ratio=self.recall_ratio,
            projection_ratio=self.projection_ratio,
            bits=self.bits,
            scale=self.scale,
            quantize_projected=self.quantize_projected,
            randomize=self.randomize,
            bank_size=self.bank_size,
            seed=derive_seed(seed, "injection"),
        )


def distill_teacher(
    settings: DistillSettings, inputs: Mapping[str, Path], out: Path, *, seed: int, runtime: Runtime
) -> dict[str, float]:
    """Distil from training images, or on from the checkpoint of an interrupted process.

    Returns means over the layers.
    """
    data = load_prepared(inputs["prepare"])
    trained = teacher_folder(inputs)
    gauge = Gauge(runtime.device)
    injection = settings.injection(seed)
    spec = load_spec(trained).with_injection(injection)
    teacher = load_model(trained, f"{settings.checkpoint}.safetensors")
    model = inject(teacher, injection).to(runtime.device).eval()
    set_noise(model, "training", derive_seed(seed, "distill"))
    images = data.train.limited(settings.images, derive_seed(seed, "distill", "images"))
    seen = 0.0

    def progress(description: str, completed: int, total: int) -> None:
        nonlocal seen
        seen += len(images.labels) / (total if description == MEASURING else 1)
        runtime.progress(description, completed, total)

    quality = distill(
        model,
        images.batches(settings.batch_size, runtime.device),
        solver=settings.solver,
        epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        momentum=settings.momentum,
        ridge=settings.ridge,
        checkpoint_dir=runtime.scratch(out),
        on_progress=progress,
    )
    seconds = gauge.seconds
    save_model(out, spec, {MODEL: model.state_dict()})
    rows = [asdict(layer) for layer in quality]
    write_json(out / LAYERS, rows)
    write_csv(out / "layers.csv", list(rows[0]), rows)
    rate = {"images_per_second": seen / seconds} if seen else {}  # else all was measured before
    gauge.write(out, {"seconds/distillation": seconds} | rate)
    measures = ("nmse", "nmse_quantized", "top_k_recall")
    return {f"mean_{name}": sum(row[name] for row in rows) / len(rows) for name in measures}
