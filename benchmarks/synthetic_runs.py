"""Made-up tracked runs, shaped like those of a sweep of the paper's table 1 over many seeds."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

IMAGES = 10_000
DATASETS = ("cifar10", "cifar100")
TRAINED_BY = ("adversarial", "rse_add", "rse_multiply", "rpf")
NOISE = tuple((ratio, objective) for ratio in (0.9, 0.99) for objective in ("clean", "adversarial"))
EPS, STEP = "8/255", "2/255"
ATTACKS: dict[str, dict[str, str]] = {
    "fgsm": {"kind": "fgsm", "eps": EPS, "gradient": "blocked"},
    "pgd20": {"kind": "pgd", "eps": EPS, "step_size": STEP, "steps": "20", "gradient": "blocked"},
    "mifgsm": {"kind": "mifgsm", "eps": EPS, "step_size": STEP, "steps": "5", "gradient": "blocked"},
    "cw_l2": {"kind": "cw", "c": "0.0001", "steps": "1000", "learning_rate": "0.01", "gradient": "blocked"},
    "autoattack_torchattacks": {"kind": "autoattack_torchattacks", "eps": EPS, "gradient": "blocked"},
    "transfer": {"kind": "transfer", "eps": EPS, "step_size": STEP, "steps": "20", "eot_samples": "20"},
    "apgd_ce": {"kind": "apgd_ce", "eps": EPS, "steps": "100", "gradient": "straight_through"},
}


@dataclass(frozen=True)
class SyntheticRun:
    """What is tracked of one stage."""

    name: str
    tags: dict[str, str]
    params: dict[str, str]
    metrics: dict[str, float]


def runs_per_seed() -> int:
    """How many runs `synthetic_runs` gives for one seed."""
    return len(DATASETS) * (1 + len(TRAINED_BY) + 1 + 2 * len(NOISE) + len(TRAINED_BY))


def synthetic_runs(count: int, seed: int = 0) -> Iterator[SyntheticRun]:
    """`count` runs: all stages of one seed after those of another; the last seed may be incomplete."""
    generator = np.random.default_rng(seed)
    number = 0
    while True:
        for run in _of_seed(number, generator):
            if count == 0:
                return
            count -= 1
            yield run
        number += 1


def _of_seed(seed: int, generator: np.random.Generator) -> Iterator[SyntheticRun]:
    for dataset in DATASETS:
        common = {
            "kind": "stage",
            "dataset": dataset,
            "data_fingerprint": dataset.ljust(64, "0"),
            "seed": str(seed),
            "git_commit": "c" * 40,
            "git_dirty": "false",
            "device": "cuda",
            "threads": "8",
            "versions": json.dumps({"python": "3.11", "torch": "2", "numpy": "2", "mlflow": "3"}),
            "cached": "false",
        }
        keys = {"prepare": _key(generator)}
        counts = {"images/train": 49_000.0, "images/validation": 1000.0, "images/test": float(IMAGES)}
        settings = {"train_images": "null", "test_images": "null", "dataset": dataset}
        yield _run("prepare", common, keys, settings, counts, generator)
        for trained_by in TRAINED_BY:
            model = common | {
                "model": "resnet18",
                "trained_by": trained_by,
                "trained_by_title": trained_by.upper(),
                "trained_by_settings": json.dumps({"kind": trained_by}),
                "pretrain_epochs": "200",
            }
            above = keys | {"pretrain": _key(generator)}
            yield _run("pretrain", model, above, {"epochs": "200"}, {"train_loss": 1.0}, generator)
            dense = model | {
                "defence": "dense",
                "ensemble": "1",
                "random": str(trained_by != "adversarial").lower(),
            }
            yield _attack(dense, above | {"attack": _key(generator)}, 1.0, generator)
            if trained_by == "adversarial":
                yield from _noisy(model, above, generator)


def _noisy(
    model: dict[str, str], above: dict[str, str], generator: np.random.Generator
) -> Iterator[SyntheticRun]:
    above = above | {"distill": _key(generator)}
    yield _run("distill", model, above, {"bits": "4"}, {"residual": 0.1}, generator)
    for ratio, objective in NOISE:
        tags = model | {
            "defence": "noise_injection",
            "ratio": str(ratio),
            "objective": objective,
            "target": "non_essential",
            "selection": "top_k",
            "score": "magnitude",
            "randomize": "fixed",
            "bits": "4",
            "projection_ratio": "0.25",
            "random": "false",
        }
        keys = above | {"finetune": _key(generator)}
        yield _run("finetune", tags, keys, {"epochs": "1"}, {"train_loss": 1.0}, generator)
        attacked = keys | {"attack": _key(generator)}
        yield _attack(tags | {"ensemble": "1"}, attacked, 1 - 0.9 * ratio, generator)


def _attack(
    tags: dict[str, str], keys: dict[str, str], cost: float, generator: np.random.Generator
) -> SyntheticRun:
    params = {"images": "null", "batch_size": "256", "judge_draws": "20", "ensemble": "1"}
    params |= {
        f"attacks.{name}.{field}": value for name, own in ATTACKS.items() for field, value in own.items()
    }
    metrics = {"images": float(IMAGES), "bitops_dense": 2.6e9, "bitops_nominal": 2.6e9 * cost}
    metrics |= {"bitops_measured": 2.6e9 * cost}
    for name in ("clean", "worst_case", *ATTACKS):
        correct = int(generator.integers(2000, 8000))
        metrics |= {f"correct/{name}": float(correct), f"accuracy/{name}": correct / IMAGES}
        if name in ATTACKS:
            metrics |= {f"forwards/{name}": 2e5, f"backwards/{name}": 2e5, f"zero_gradients/{name}": 0.0}
            metrics |= {f"seconds/{name}": float(generator.uniform(1, 100))}
    return _run("attack", tags | {"images": str(IMAGES)}, keys, params, metrics, generator)


def _run(
    stage: str,
    tags: dict[str, str],
    keys: dict[str, str],
    params: dict[str, str],
    metrics: dict[str, float],
    generator: np.random.Generator,
) -> SyntheticRun:
    *before, _ = keys
    every: dict[str, Any] = tags | {
        "stage": stage,
        "key": keys[stage],
        "upstream_keys": json.dumps({name: keys[name] for name in before}),
    }
    return SyntheticRun(stage, every, params, metrics | {"seconds": float(generator.uniform(1, 1000))})


def _key(generator: np.random.Generator) -> str:
    return generator.bytes(32).hex()
