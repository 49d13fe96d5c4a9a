"""How many trials a second Ray Tune gets through, as the sweep uses it; imports Ray."""

import os
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

from pipeline.config import Attack, AttackConfig, Distill, Prepare, Pretrain
from pipeline.experiment import Experiment
from pipeline.graph import Node, NodeId
from pipeline.provenance import commit
from pipeline.ray_session import cluster
from pipeline.runner import plan
from pipeline.stage_trial import Job, Outcome


class _SameAgain:
    """Suggests the only stage of a job again and again."""

    def __init__(self, trials: int, at_a_time: int) -> None:
        self._left = trials
        self._at_a_time = at_a_time
        self._running: set[str] = set()
        self.ends: list[float] = []
        self.failures: list[str] = []

    @property
    def is_over(self) -> bool:
        return not self._left and not self._running

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        if not self._left or len(self._running) >= self._at_a_time:
            return None
        self._left -= 1
        self._running.add(trial_id)
        return {"stage": "prepare", "node": 0}

    def completed(self, trial_id: str, outcome: Outcome) -> None:
        self._running.discard(trial_id)
        self.ends.append(perf_counter())
        if outcome.reason is not None:
            self.failures.append(outcome.reason)

    def died(self, trial_id: str, error: str) -> None:
        self._running.discard(trial_id)
        self.failures.append(error)

    def tick(self) -> None:
        pass


def trials(number: int) -> dict[str, float]:
    """Run `number` trials of a stage that is in the store after the first; the first ones start the workers.

    Raises `RuntimeError` if a trial fails.
    """
    experiment = Experiment(
        prepare=Prepare(dataset="synthetic", train_images=48, test_images=20, validation_images=12),
        pretrain=Pretrain(epochs=1),
        distill=Distill(),
        finetune=None,
        attack=Attack(attacks={"fgsm": AttackConfig(kind="fgsm")}),
    )
    [planned] = plan([experiment])
    node = Node(NodeId("prepare", planned.keys["prepare"]), planned, ())
    begun = perf_counter()
    with tempfile.TemporaryDirectory(prefix="nenni-") as folder, cluster(None, cores=os.cpu_count()):
        from pipeline.tune_trials import fit

        cores = os.cpu_count() or 1
        job = Job(
            nodes=(node,),
            store=f"{folder}/store",
            sweep="benchmark",
            device="cpu",
            threads={"prepare": 1},
            time_limit=None,
            commit=commit(),
        )
        dispatch = _SameAgain(number, cores)
        fit(dispatch, job, {"prepare": {"cpu": 1.0}}, Path(folder) / "tune")
    if dispatch.failures or len(dispatch.ends) != number:
        raise RuntimeError(f"{len(dispatch.ends)} of {number} trials ended; {dispatch.failures[:1]}")
    # what the first of each worker took is the start of Ray and of its processes
    first = dispatch.ends[min(cores, number - 1) - 1] if number > 1 else begun
    seconds = dispatch.ends[-1] - first
    timed = number - min(cores, number - 1) if number > 1 else 1
    return {"trials": number, "start_s": first - begun, "seconds": seconds, "trials_per_s": timed / seconds}
