"""Running a search: Ray Tune computes, Optuna proposes, and a journal in the search's folder remembers.

The journal and the store are all that a search needs to go on after it was stopped: choices that were
evaluated are not evaluated again, those that were under way are proposed again.
"""

from dataclasses import dataclass
from math import nan
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import optuna
from optuna.distributions import IntDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from ray import tune
from ray.tune.search.optuna import OptunaSearch

from nenni_core.chain.runtime import Runtime
from nenni_core.device import configure_torch
from nenni_core.errors import InputError
from nenni_core.files import canonical_json
from nenni_core.progress import ProgressCallback
from nenni_core.randomness import derive_seed
from pipeline.command_line import say, silence_telemetry
from pipeline.problems import shortened
from pipeline.ray_session import cluster
from pipeline.search import Choice, SamplerName, Search
from pipeline.search_results import Results, Trial
from pipeline.store import Store, open_store

JOURNAL, STUDY = "journal.log", "search"
ACCURACY, COST, ERROR = "worst_case", "edp", "error"
DIED = "the process that computed it died, twice"


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What the trials of a search run on."""

    concurrent: int
    """Trials at a time."""
    threads: int
    """CPU threads of PyTorch in each."""
    device: str
    """As PyTorch names it; trials share an accelerator."""


class Journal:
    """The trials of a search, in a file of its folder."""

    def __init__(self, folder: Path, search: Search) -> None:
        """Open the journal in `folder`, or begin one.

        Choices of `search.uniform` are to be evaluated first, and those again that were under way when the
        process that had begun them ended. Raises `InputError` if the folder is of another search.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        folder.mkdir(parents=True, exist_ok=True)
        self.search = search
        self.storage: BaseStorage = JournalStorage(JournalFileBackend(str(folder / JOURNAL)))
        self.study = optuna.create_study(
            storage=self.storage,
            study_name=STUDY,
            directions=["maximize", "minimize"],
            load_if_exists=True,
        )
        identity = search.identity()
        if self.study.user_attrs.get("identity", identity) != identity:
            raise InputError(
                f"{str(folder)!r} has a search of other parameters, data, steps or stage versions; "
                "expected another folder for --out, or that one deleted"
            )
        self.study.set_user_attr("identity", identity)
        for choice in search.uniform_choices():
            self.study.enqueue_trial(choice, skip_if_exists=True)
        for trial in self.study.get_trials(states=[TrialState.RUNNING]):
            self.study.tell(trial.number, state=TrialState.FAIL)
            self.study.enqueue_trial(trial.params)

    def finished(self) -> list[FrozenTrial]:
        """The trials with a score, and those that failed, in the order in which they were begun."""
        return [
            trial
            for trial in self.study.get_trials()
            if trial.state == TrialState.COMPLETE or ERROR in trial.user_attrs
        ]


def results_of(journal: Journal, store: Store) -> Results:
    """What the journal's finished trials have found, each choice once; the numbers are those of the store."""
    found: dict[str, Trial] = {}
    for trial in journal.finished():
        error = trial.user_attrs.get(ERROR, "")
        known = None if error else journal.search.look_up(trial.params, store)
        if known is None and not error:
            error = "its results are no longer in the store"
        ratios = journal.search.ratios(trial.params)
        one = Trial(number=trial.number, ratios=ratios, choice=trial.params, found=known, error=error)
        found.setdefault(canonical_json(trial.params), one)
    return Results(search=journal.search, trials=tuple(found.values()))


class JournalledSearch(OptunaSearch):
    """Ray Tune's Optuna search, with the reason of a failure in the journal."""

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell the study, as the base class does; a trial that says what went wrong has failed."""
        reason = DIED if error else (result or {}).get(ERROR)
        if reason:
            self._ot_trials[trial_id].set_user_attr(ERROR, reason)
            result, error = None, True  # no scores: the study then counts it as failed
        super().on_trial_complete(trial_id, result, error)


def run_trials(
    journal: Journal,
    trials: int,
    *,
    store: Store,
    resources: Resources,
    sampler: SamplerName,
    seed: int,
    progress: ProgressCallback,
) -> bool:
    """Evaluate choices until the uniform ones and `trials` more are finished; False if it was interrupted."""
    done = len(journal.finished())
    total = len(journal.search.uniform) + trials
    if done >= total:
        return True
    searcher = JournalledSearch(
        space={group: IntDistribution(0, len(journal.search.steps) - 1) for group in journal.search.groups},
        metric=[ACCURACY, COST],
        mode=["max", "min"],
        # a search that goes on must not propose again what it proposed at its beginning
        sampler=_sampler(sampler, derive_seed(seed, "search", str(len(journal.study.get_trials()))) % 2**32),
        storage=journal.storage,
        study_name=STUDY,
    )
    accelerated = not resources.device.startswith("cpu")
    needs = {"cpu": resources.threads, "gpu": 1 / resources.concurrent if accelerated else 0}
    task = tune.with_parameters(
        evaluate_trial,
        search=journal.search,
        store=store.location,
        device=resources.device,
        threads=resources.threads,
    )
    cpus = resources.threads * resources.concurrent
    with TemporaryDirectory(prefix="search-") as scratch, cluster(None, cores=cpus):
        tuner = tune.Tuner(
            tune.with_resources(task, needs),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                num_samples=total - done,
                max_concurrent_trials=resources.concurrent,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="search",
                storage_path=scratch,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=1),
                callbacks=[_Announcer(journal.search, done, total, progress)],
            ),
        )
        tuner.fit()
    return len(journal.finished()) >= total


def _sampler(name: SamplerName, seed: int) -> BaseSampler:
    """Both know several objectives: Ozaki et al. 2022 (JAIR 73), Deb et al. 2002 (IEEE TEC 6:2)."""
    return TPESampler(seed=seed) if name == "tpe" else NSGAIISampler(seed=seed)


def evaluate_trial(config: Choice, *, search: Search, store: str, device: str, threads: int) -> None:
    """What a process of Ray does for one choice; settings of the process are made anew, as it is used again.

    A failure is a result, so that the process stays and the others go on.
    """
    silence_telemetry()
    configure_torch(threads, device)
    try:
        found = search.evaluate(config, open_store(store), Runtime(device=device))
    except Exception as error:  # whatever a stage raises
        reason = shortened(f"{type(error).__name__}: {' '.join(str(error).split())}")
        tune.report({ACCURACY: nan, COST: nan, ERROR: reason})
    else:
        tune.report({ACCURACY: found.worst_case, COST: found.edp})


class _Announcer(tune.Callback):
    """Says of each trial what came of it."""

    def __init__(self, search: Search, done: int, total: int, progress: ProgressCallback) -> None:
        self._search = search
        self._done = done
        self._total = total
        self._progress = progress
        progress("search", done, total)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A line with the scores, or the reason why there are none."""
        result = trial.last_result
        if ERROR in result:
            self._say(trial, f"failed: {result[ERROR]}")
        else:
            accuracy, cost = 100 * result[ACCURACY], result[COST]
            self._say(trial, f"worst case {accuracy:.1f}%, energy x time {cost:.3f} of dense")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A line for a trial without a result."""
        self._say(trial, f"failed: {DIED}")

    def _say(self, trial: Any, outcome: str) -> None:
        self._done += 1
        say(f"{self._done} of {self._total}, {describe(self._search.ratios(trial.config))}: {outcome}")
        self._progress("search", self._done, self._total)


def describe(ratios: dict[str, float]) -> str:
    """The ratios of the groups in their order, or the one that all have.

    >>> describe({"a": 0.5, "b": 0.9}), describe({"a": 0.5, "b": 0.5})
    ('ratios 0.5 0.9', 'ratio 0.5 everywhere')
    """
    values = [f"{ratio:g}" for ratio in ratios.values()]
    return f"ratios {' '.join(values)}" if len({*values}) > 1 else f"ratio {values[0]} everywhere"
