"""Stage `pretrain`: the dense teacher, trained from fresh weights by the chosen defence.

Writes `best.safetensors` (most robust on the held-out slice), `last.safetensors`, `model.json`,
`history.json` and `.csv`, and `learning_curve.png`.
"""

from collections.abc import Mapping
from pathlib import Path

from nenni_core.randomness import derive_seed
from pipeline import figures
from pipeline.artifacts import ModelSpec, load_prepared, save_model
from pipeline.config import Pretrain
from pipeline.learning import fit, history_rows, summary
from pipeline.runtime import Runtime


def run(
    config: Pretrain, inputs: Mapping[str, Path], out: Path, *, seed: int, runtime: Runtime
) -> dict[str, float]:
    """Train from fresh weights, or on from the checkpoint of an interrupted process.

    Raises `TrainingDiverged` if the loss is no longer finite.
    """
    data = load_prepared(inputs["prepare"])
    spec = ModelSpec.dense(
        config,
        num_classes=data.num_classes,
        image_shape=data.image_shape,
        mean=data.mean,
        std=data.std,
    )
    model = spec.build(derive_seed(seed, "pretrain", "weights")).to(runtime.device)
    defense = config.defense.defense()
    result = fit(
        model, data, config.recipe(), defense, out, seed=derive_seed(seed, "pretrain"), runtime=runtime
    )
    save_model(out, spec, {"best.safetensors": result.best, "last.safetensors": result.last})
    figures.learning_curve(history_rows(result), out / "learning_curve.png")
    return summary(result)


if __name__ == "__main__":
    from pipeline.stages.command import main

    main("pretrain")
