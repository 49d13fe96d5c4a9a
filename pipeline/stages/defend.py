"""Stage `defend`: a defence that starts from a trained network, such as pruning, and trains it on.

Writes what `pretrain` writes: `best.safetensors`, `last.safetensors`, `model.json`, and, unless nothing is
trained, `history.json` and `.csv` and `learning_curve.png`.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from nenni_core.chain.artifacts import load_model, load_prepared, load_spec, save_model
from nenni_core.chain.learning import fit, history_rows, summary
from nenni_core.chain.runtime import Runtime
from nenni_core.randomness import derive_seed
from pipeline import figures
from pipeline.config import Pretrain


def run(
    config: Pretrain, inputs: Mapping[str, Path], out: Path, *, seed: int, runtime: Runtime
) -> dict[str, float]:
    """Build the defence on the best weights of the trained network, and train it for its own epochs.

    Raises `TrainingDiverged` if the loss is no longer finite.
    """
    data = load_prepared(inputs["prepare"])
    trained = load_spec(inputs["pretrain"])
    network = load_model(inputs["pretrain"], "best.safetensors")
    defense = config.defense.defense()
    model = defense.wrap(network, derive_seed(seed, "defend", "weights"), data.image_shape)
    model.to(runtime.device)
    spec = replace(trained, defense=config.defense.model_dump())
    epochs = config.defense.settings["epochs"]
    if epochs == 0:
        state = model.state_dict()
        save_model(out, spec, {"best.safetensors": state, "last.safetensors": state})
        return {}
    recipe = replace(config.recipe(), epochs=epochs, learning_rate=config.defense.settings["learning_rate"])
    result = fit(model, data, recipe, defense, out, seed=derive_seed(seed, "defend"), runtime=runtime)
    save_model(out, spec, {"best.safetensors": result.best, "last.safetensors": result.last})
    figures.learning_curve(history_rows(result), out / "learning_curve.png")
    return summary(result)


if __name__ == "__main__":
    from pipeline.stages.command import main

    main("defend")
