"""Runs as the pipeline tracks them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from analysis.runs import Parent, find_parent, stage_runs

IMAGES = 200
DENSE_BITOPS = 1_000_000.0
PROTOCOL = {
    "images": "200",
    "attacks.fgsm.kind": "fgsm",
    "attacks.fgsm.eps": str(8 / 255),
    "attacks.fgsm.gradient": "blocked",
    "attacks.mifgsm.kind": "mifgsm",
    "attacks.mifgsm.eps": str(8 / 255),
    "attacks.mifgsm.gradient": "blocked",
    "attacks.pgd20.kind": "pgd",
    "attacks.pgd20.eps": str(8 / 255),
    "attacks.pgd20.steps": "20",
    "attacks.pgd20.gradient": "blocked",
    "attacks.pgd20_straight_through.kind": "pgd",
    "attacks.pgd20_straight_through.eps": str(8 / 255),
    "attacks.pgd20_straight_through.steps": "20",
    "attacks.pgd20_straight_through.gradient": "straight_through",
}
EPS = str(8 / 255)
STRAIGHT = {"steps": "100", "eot_samples": "20", "gradient": "straight_through"}
PROBES = {
    "pgd2_probe": {"kind": "pgd", "eps": EPS, "steps": "2", "in_worst_case": "false"},
    "pgd20_unbounded_probe": {"kind": "pgd", "eps": str(64 / 255), "steps": "20", "in_worst_case": "false"},
}
ADAPTIVE = {
    "transfer": {"kind": "transfer", "eps": EPS, "eot_samples": "20"},
    "apgd_ce": {"kind": "apgd_ce", "eps": EPS, **STRAIGHT},
    "apgd_dlr_targeted": {
        "kind": "apgd_dlr_targeted",
        "eps": EPS,
        **STRAIGHT,
        "survivors_of": '["apgd_ce"]',
    },
    "square": {
        "kind": "square",
        "eps": EPS,
        "queries": "5000",
        "survivors_of": '["apgd_ce", "apgd_dlr_targeted"]',
    },
    "autoattack_standard": {"kind": "autoattack_standard", "eps": EPS, "gradient": "straight_through"},
}


def flat(attacks: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Settings by attack as a run's parameters."""
    return {
        f"attacks.{name}.{field}": value
        for name, settings in attacks.items()
        for field, value in settings.items()
    }


# The numbers of the verdict on masked gradients, each another one.
NUMBERS = {
    "protocols_disagree": {"paper": 0.906, "adaptive": 0.031},
    "black_box_beats_white_box": {
        "white_box": 0.042,
        "black_box": 0.153,
        "paper_gradients": 0.907,
        "transfer": 0.764,
    },
    "one_step_beats_many": {"one_step": 0.875, "twenty_steps": 0.886},
    "unbounded_attack_fails": {"left": 0.097},
    "more_steps_do_not_help": {"two_steps": 0.908, "twenty_steps": 0.889},
    "zero_gradients": {"share": 0.123},
}


def verdict(*raised: str) -> dict[str, float]:
    """The metrics of a verdict with the tests `raised`."""
    return {f"masking/{test}": float(test in raised) for test in NUMBERS} | {
        f"masking/{test}/{number}": value
        for test, numbers in NUMBERS.items()
        for number, value in numbers.items()
    }


TAGS = {
    "stage": "attack",
    "model": "small_resnet",
    "dataset": "digits",
    "seed": "0",
    "git_commit": "c" * 40,
    "git_dirty": "false",
    "data_fingerprint": "f" * 64,
    "images": str(IMAGES),
    "upstream_keys": "{}",
    "trained_by": "adversarial",
    "trained_by_title": "Adversarial Training",
    "ensemble": "1",
    "random": "false",
    "pretrain_epochs": "20",
    "device": "cpu",
    "threads": "2",
}
DENSE = {
    "defence": "dense",
    "ratio": "",
    "pattern": "",
    "objective": "",
    "target": "",
    "randomize": "",
    "selection": "",
    "score": "",
    "bits": "",
    "projection_ratio": "",
}
NOISE = {
    "defence": "noise_injection",
    "ratio": "",
    "pattern": "",
    "objective": "clean",
    "target": "non_essential",
    "randomize": "fixed",
    "selection": "top_k",
    "score": "magnitude",
    "bits": "4",
    "projection_ratio": "0.25",
}
# Runs that were recorded before these were tags have none of them.
LATER = (
    "score",
    "bits",
    "projection_ratio",
    "trained_by",
    "ensemble",
    "pretrain_epochs",
    "device",
    "threads",
)


def noise(*, objective: str = "clean", **where: str) -> dict[str, str]:
    """The tags of a network with noise: `ratio="0.9"` or `pattern="4:8"`."""
    return NOISE | where | {"objective": objective}


@dataclass
class Recorder:
    """Writes runs as the pipeline does, through MLflow's client."""

    tracking_uri: str
    client: Any
    clock: int = field(default=1_700_000_000_000)

    def parent(self, experiment: str) -> str:
        """A parent run in `experiment`, started later than every run before it; its id."""
        found = self.client.get_experiment_by_name(experiment)
        experiment_id = found.experiment_id if found else self.client.create_experiment(experiment)
        self.clock += 1_000_000
        tags = {"kind": "experiment", "source": "dvc", "experiment_key": "k", "mlflow.runName": "the-set"}
        return self.client.create_run(experiment_id, start_time=self.clock, tags=tags).info.run_id

    def attack(
        self,
        parent: str,
        tags: dict[str, str],
        correct: dict[str, int],
        *,
        images: int = IMAGES,
        bitops: tuple[float, float] = (DENSE_BITOPS, DENSE_BITOPS),
        params: dict[str, str] | None = None,
        status: str = "FINISHED",
        metrics: dict[str, float] | None = None,
    ) -> str:
        """An attack run: `correct` counts by column, `bitops` nominal and measured; its id."""
        from mlflow.entities import Metric, Param

        self.clock += 1000
        experiment_id = self.client.get_run(parent).info.experiment_id
        every = TAGS | tags | {"mlflow.parentRunId": parent}
        every.setdefault("key", f"{self.clock:064x}")
        run = self.client.create_run(experiment_id, start_time=self.clock, tags=every).info.run_id
        values = {"images": float(images), "bitops_dense": DENSE_BITOPS}
        values |= {"bitops_nominal": bitops[0], "bitops_measured": bitops[1], "seconds": 2.5}
        for column, count in correct.items():
            values |= {f"correct/{column}": float(count), f"accuracy/{column}": count / images}
            values |= {} if column == "clean" else {f"seconds/{column}": 1.5, f"forwards/{column}": 20.0}
        values |= metrics or {}
        logged = PROTOCOL if params is None else params
        self.client.log_batch(
            run,
            metrics=[Metric(name, value, self.clock, 0) for name, value in values.items()],
            params=[Param(name, value) for name, value in logged.items()],
        )
        self.client.set_terminated(run, status=status, end_time=self.clock + 2500)
        return run

    def stage(self, parent: str, stage: str, **tags: str) -> str:
        """A finished run of a stage without accuracies; its id."""
        return self.attack(parent, {"stage": stage, **tags}, {}, params={})


@dataclass(frozen=True)
class Recorded:
    """A tracked experiment of the tests."""

    parent: Parent
    runs: pl.DataFrame
    ids: dict[str, str]


def read_back(recorder: Recorder, experiment: str, ids: dict[str, str]) -> Recorded:
    """The newest experiment of that name, as the analysis sees it."""
    parent = find_parent(recorder.tracking_uri, experiment)
    return Recorded(parent, stage_runs(parent), ids)
