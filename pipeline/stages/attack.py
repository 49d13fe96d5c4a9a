"""Stage `attack`: every attack of the protocol on one model, dense or a variant.

Writes `records.parquet` (one row per test image), `results.json` (accuracies with 95% intervals, costs),
`timing.json` (seconds, the only file that two equal runs may disagree in) and `examples.png`; and
`masking.json`, the verdict on gradient masking, if the attacks that it rests on are configured.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nenni_core.attacks import defined_for
from nenni_core.bitops import bitops
from nenni_core.defenses import Ensemble
from nenni_core.evaluation import evaluate, verdict_of
from nenni_core.randomness import derive_seed, noise_streams
from pipeline import figures
from pipeline.artifacts import MODEL, load_model, load_prepared, teacher_folder
from pipeline.config import AttackRun
from pipeline.files import read_json, write_json
from pipeline.runtime import Runtime
from pipeline.stages.finetune import BITOPS
from pipeline.store import MASKING, TIMING

RESULTS, RECORDS = "results.json", "records.parquet"


def run(
    config: AttackRun, inputs: Mapping[str, Path], out: Path, *, seed: int, runtime: Runtime
) -> dict[str, float]:
    """Attack images of one split; attacks that an interrupted process has finished are not run again.

    All that is random is drawn from (`seed`, attack), so that models of one seed meet the same attacks.
    """
    import polars  # not at the top: slow, and not needed when everything is in the store

    data = load_prepared(inputs["prepare"])
    # the choice of images depends on nothing but the data, so that all models and seeds share it
    attacked = data.split(config.split).limited(config.images, 0)
    if "finetune" in inputs:
        model = load_model(inputs["finetune"], MODEL, device=runtime.device)
        costs = read_json(inputs["finetune"] / BITOPS)
    else:
        model = load_model(teacher_folder(inputs), f"{config.checkpoint}.safetensors", device=runtime.device)
        cost = bitops(model, data.image_shape)
        costs = {"dense": cost.dense, "nominal": cost.total, "measured": cost.total}
    surrogate = None
    if config.needs_surrogate:
        # the dense teacher is its own: a transfer is then an ordinary attack
        surrogate = load_model(
            teacher_folder(inputs), f"{config.checkpoint}.safetensors", device=runtime.device
        )
    if config.ensemble > 1:
        model = Ensemble(model, config.ensemble)
        costs = costs | {name: config.ensemble * costs[name] for name in ("nominal", "measured")}
    # the others have no result for this model
    attacks = defined_for(
        config.specifications(), num_classes=data.num_classes, random=bool(noise_streams(model))
    )
    evaluation = evaluate(
        model,
        attacked.images,
        attacked.labels,
        attacks,
        num_classes=data.num_classes,
        batch_size=config.batch_size,
        judge_draws=config.judge_draws,
        surrogate=surrogate,
        seed=derive_seed(seed, "attack"),
        on_progress=runtime.progress,
        keep_examples=config.examples,
        resume_dir=runtime.scratch(out),
    )
    summary = evaluation.summary()
    seconds = {
        f"seconds/{name}": facts.pop("seconds")
        for name, facts in _columns(summary).items()
        if "seconds" in facts
    }
    write_json(
        out / RESULTS, summary | {"bitops": {name: costs[name] for name in ("dense", "nominal", "measured")}}
    )
    write_json(out / TIMING, {name: round(value, 3) for name, value in seconds.items()})
    polars.DataFrame(evaluation.records()).write_parquet(out / RECORDS)
    if len(evaluation.examples.index):
        figures.adversarial_examples(evaluation.examples, data.class_names, out / "examples.png")

    metrics: dict[str, float] = {"images": float(len(attacked.labels))}
    if (verdict := verdict_of(evaluation)) is not None:
        write_json(out / MASKING, verdict.summary())
        metrics |= verdict.metrics()
    for name, facts in _columns(summary).items():
        metrics[f"accuracy/{name}"] = facts["value"]
        if evaluation.judged_again is None:  # else the accuracy is a mean over draws, and no count
            metrics[f"correct/{name}"] = float(facts["correct"])
        if "forwards" in facts:
            metrics[f"forwards/{name}"] = float(facts["forwards"])
            metrics[f"backwards/{name}"] = float(facts["backwards"])
            metrics[f"zero_gradients/{name}"] = float(facts["zero_gradients"])
        # infinite ends are left out: what is not there is not finite
        for end, distance in facts.get("median_distance", {}).items():
            if distance is not None:
                suffix = "" if end == "value" else f"/{end}"
                metrics[f"median_distance/{name}{suffix}"] = distance
    for name in ("dense", "nominal", "measured"):
        metrics[f"bitops_{name}"] = costs[name]
    return metrics


def _columns(summary: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """All columns of a summary: clean, worst case and every attack."""
    return {name: summary[name] for name in summary if name != "attacks"} | summary["attacks"]


if __name__ == "__main__":
    from pipeline.stages.command import main

    main("attack")
