"""The side of Ray Tune: what it calls for the next trial, what a trial does, how its loop is set up.

Imports Ray, so nothing imports this before `pipeline.tune_execution.cluster` has set its environment.
"""

import logging
from pathlib import Path
from typing import Any, Protocol

from ray import tune
from ray.tune import Callback
from ray.tune.search import Searcher

from pipeline.stage_trial import Job, Outcome, as_result, run_stage


class Dispatch(Protocol):
    """Who decides (`pipeline.tune_execution.Execution`)."""

    @property
    def is_over(self) -> bool:
        """Whether no further trial will be suggested."""

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The configuration of the next trial; None if there is none now."""

    def completed(self, trial_id: str, outcome: Outcome) -> None:
        """A trial has come back."""

    def died(self, trial_id: str, error: str) -> None:
        """The process of a trial has ended without a word."""

    def tick(self) -> None:
        """Called several times a second; what it raises ends the loop."""


class StageSearcher(Searcher):
    """Proposes ready stages as trials. Tune pickles it, and nothing is ever restored from that."""

    def __init__(self, dispatch: Dispatch) -> None:
        super().__init__()
        self._dispatch = dispatch

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def suggest(self, trial_id: str) -> Any:
        return Searcher.FINISHED if self._dispatch.is_over else self._dispatch.suggest(trial_id)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        if not error and result is not None and "outcome" in result:
            self._dispatch.completed(trial_id, result["outcome"])

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the store is what a sweep continues from."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing."""


class StageCallback(Callback):
    """Hears of trials whose process died, and of time going by."""

    def __init__(self, dispatch: Dispatch) -> None:
        self._dispatch = dispatch

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._dispatch.died(trial.trial_id, _first_line(trial))

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._dispatch.tick()


class StageTrial(tune.Trainable):
    """Runs one stage; the process is kept for the next one."""

    def setup(self, config: dict[str, Any], job: Job) -> None:  # type: ignore[override]
        self._job, self._node = job, config["node"]

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._node = new_config["node"]
        return True

    def step(self) -> dict[str, Any]:
        return as_result(run_stage(self._job, self._node))

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: stages have checkpoints of their own, in the store."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing."""


def fit(dispatch: Dispatch, job: Job, asked: dict[str, dict[str, float]], folder: Path) -> None:
    """Run Tune's loop over the stages that `dispatch` suggests.

    Args:
        dispatch: decides.
        job: what all stages share.
        asked: resources by kind of stage, as Ray names them.
        folder: for Tune's own files.
    """
    by_stage: Any = lambda config: asked[config["stage"]]  # noqa: E731 (its type is wrong in Ray)
    trainable = tune.with_resources(tune.with_parameters(StageTrial, job=job), by_stage)
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(search_alg=StageSearcher(dispatch), num_samples=-1, reuse_actors=True),
        run_config=tune.RunConfig(
            storage_path=str(folder),
            name="tune",
            verbose=0,
            # attempts are counted by the schedule, whatever they fail of
            failure_config=tune.FailureConfig(max_failures=0),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            callbacks=[StageCallback(dispatch)],
        ),
    )
    # it names trials as incomplete that the schedule has dealt with
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    tuner.fit()


def _first_line(trial: Any) -> str:
    """What Ray says of the death of a process, in a sentence."""
    try:
        text = Path(trial.error_file).read_text(encoding="utf-8", errors="replace")
    except (OSError, TypeError):
        return "Ray does not say why"
    sentences = [part.strip() for line in text.splitlines() for part in line.split(". ") if part.strip()]
    telling = [
        part for part in sentences if "memory" in part or "exit detail" in part or "node" in part.lower()
    ]
    return (telling or sentences or [""])[0][:300]
