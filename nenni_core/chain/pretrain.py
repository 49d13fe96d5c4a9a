"""Stage `pretrain`: the dense teacher, trained from fresh weights by the chosen defence.

Writes `best.safetensors` (most robust on the held-out slice), `last.safetensors`, `model.json`,
`history.json` and `.csv`, and `timing.json`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nenni_core.chain.artifacts import ModelSpec, defense_of, load_prepared, save_model
from nenni_core.chain.learning import fit, summary
from nenni_core.chain.runtime import Runtime
from nenni_core.randomness import derive_seed
from nenni_core.training import Recipe


@dataclass(frozen=True, kw_only=True)
class PretrainSettings:
    """What the trained network is a function of."""

    architecture: str
    """Key of `nenni_core.models.MODELS`."""
    defense: dict[str, Any]
    """`kind` and all hyperparameters."""
    recipe: Recipe


def pretrain(
    settings: PretrainSettings, inputs: Mapping[str, Path], out: Path, *, seed: int, runtime: Runtime
) -> dict[str, float | int]:
    """Train from fresh weights, or on from the checkpoint of an interrupted process.

    Raises `TrainingDiverged` if the loss is no longer finite.
    """
    data = load_prepared(inputs["prepare"])
    spec = ModelSpec.dense(
        settings.architecture,
        settings.defense,
        num_classes=data.num_classes,
        image_shape=data.image_shape,
        mean=data.mean,
        std=data.std,
    )
    model = spec.build(derive_seed(seed, "pretrain", "weights")).to(runtime.device)
    result = fit(
        model,
        data,
        settings.recipe,
        defense_of(settings.defense),
        out,
        seed=derive_seed(seed, "pretrain"),
        runtime=runtime,
    )
    save_model(out, spec, {"best.safetensors": result.best, "last.safetensors": result.last})
    return summary(result)
