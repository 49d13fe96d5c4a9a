"""Stage `attack`: every attack of the protocol on one model, dense or a variant.

Writes `results.json` (accuracies with 95% intervals, costs) and `timing.json`; and `masking.json`, the
verdict on gradient masking, if the attacks that it rests on are among them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nenni_core.attacks import ATTACKS, AttackSpec, defined_for
from nenni_core.bitops import bitops
from nenni_core.chain.artifacts import MODEL, load_model, load_prepared, teacher_folder
from nenni_core.chain.finetune import BITOPS
from nenni_core.chain.runtime import Runtime
from nenni_core.chain.speed import Gauge
from nenni_core.defenses import Ensemble
from nenni_core.evaluation import Evaluation, evaluate, verdict_of
from nenni_core.files import read_json, write_json
from nenni_core.randomness import derive_seed, noise_streams

RESULTS = "results.json"
MASKING = "masking.json"
"""The verdict on gradient masking."""


@dataclass(frozen=True, kw_only=True)
class AttackSettings:
    """What the results are a function of, beside the model and the images."""

    attacks: tuple[AttackSpec, ...]
    """In the order in which they are run."""
    images: int | None
    """Class-balanced limit on the attacked images; None for all."""
    batch_size: int
    ensemble: int
    """Random networks: passes whose mean probability is the prediction."""
    judge_draws: int
    """Random networks: noise draws that a result is judged on."""
    examples: int
    """Adversarial images that are kept for a picture."""
    checkpoint: str | None
    """Which weights of the dense teacher, where it is attacked or transferred from."""
    split: str
    """The images that are attacked: one of `nenni_core.chain.artifacts.SPLITS`."""

    @property
    def needs_surrogate(self) -> bool:
        """Whether an attack is made on the dense teacher and transferred."""
        return any(ATTACKS[spec.kind].needs_surrogate for spec in self.attacks)


def attack(
    settings: AttackSettings, inputs: Mapping[str, Path], out: Path, *, seed: int, runtime: Runtime
) -> tuple[dict[str, float], Evaluation]:
    """Attack images of one split; attacks that an interrupted process has finished are not run again.

    All that is random is drawn from (`seed`, attack), so that models of one seed meet the same attacks.
    """
    data = load_prepared(inputs["prepare"])
    gauge = Gauge(runtime.device)
    # the choice of images depends on nothing but the data, so that all models and seeds share it
    attacked = data.split(settings.split).limited(settings.images, 0)
    teacher = f"{settings.checkpoint}.safetensors"
    if "finetune" in inputs:
        model = load_model(inputs["finetune"], MODEL, device=runtime.device)
        costs = read_json(inputs["finetune"] / BITOPS)
    else:
        model = load_model(teacher_folder(inputs), teacher, device=runtime.device)
        cost = bitops(model, data.image_shape)
        costs = {"dense": cost.dense, "nominal": cost.total, "measured": cost.total}
    surrogate = None
    if settings.needs_surrogate:
        # the dense teacher is its own: a transfer is then an ordinary attack
        surrogate = load_model(teacher_folder(inputs), teacher, device=runtime.device)
    if settings.ensemble > 1:
        model = Ensemble(model, settings.ensemble)
        costs = costs | {name: settings.ensemble * costs[name] for name in ("nominal", "measured")}
    # the others have no result for this model
    attacks = defined_for(settings.attacks, num_classes=data.num_classes, random=bool(noise_streams(model)))
    evaluation = evaluate(
        model,
        attacked.images,
        attacked.labels,
        attacks,
        num_classes=data.num_classes,
        batch_size=settings.batch_size,
        judge_draws=settings.judge_draws,
        surrogate=surrogate,
        seed=derive_seed(seed, "attack"),
        on_progress=runtime.progress,
        keep_examples=settings.examples,
        resume_dir=runtime.scratch(out),
    )
    costs = {name: costs[name] for name in ("dense", "nominal", "measured")}
    summary = evaluation.summary()
    columns = all_columns(summary)
    seconds = {name: facts.pop("seconds") for name, facts in columns.items() if "seconds" in facts}
    write_json(out / RESULTS, summary | {"bitops": costs})
    attacked_images = {name: facts.get("attacked", len(attacked.labels)) for name, facts in columns.items()}
    gauge.write(
        out,
        {f"seconds/{name}": value for name, value in seconds.items()}
        | {f"images_per_second/{n}": attacked_images[n] / value for n, value in seconds.items() if value > 0},
    )
    metrics: dict[str, float] = {"images": float(len(attacked.labels))}
    if (verdict := verdict_of(evaluation)) is not None:
        write_json(out / MASKING, verdict.summary())
        metrics |= verdict.metrics()
    metrics |= _metrics(columns, judged_again=evaluation.judged_again is not None)
    return metrics | {f"bitops_{name}": value for name, value in costs.items()}, evaluation


def _metrics(columns: Mapping[str, dict[str, Any]], *, judged_again: bool) -> dict[str, float]:
    """The numbers of all columns by name."""
    metrics: dict[str, float] = {}
    for name, facts in columns.items():
        metrics[f"accuracy/{name}"] = facts["value"]
        if not judged_again:  # else the accuracy is a mean over draws, and no count
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
    return metrics


def all_columns(summary: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """All columns of a summary: clean, worst case and every attack."""
    return {name: summary[name] for name in summary if name != "attacks"} | summary["attacks"]
