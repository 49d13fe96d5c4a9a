"""What a search leaves behind: tables of its trials, the front, and a parameter file with the winners."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from nenni_core.files import write_atomically, write_csv
from pipeline.experiment import ExperimentSet
from pipeline.pareto import Score, front, hypervolume
from pipeline.search import Choice, Found, Search
from pipeline.values import read_yaml

TRIALS, FRONT, WINNERS = "trials", "front", "winners.yaml"
DENSE = Score(0.0, 1.0)
"""Nothing right at the cost of the dense network: what areas are measured from."""
NUMBERS = ("worst_case", "clean", "images", "edp", "seconds", "joules", "bitops")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One choice and what came of it."""

    number: int
    ratios: Mapping[str, float]
    """By group."""
    choice: Choice
    found: Found | None
    """None for one that failed."""
    error: str = ""

    @property
    def is_uniform(self) -> bool:
        """Whether all layers have one ratio."""
        return len({*self.ratios.values()}) == 1


@dataclass(frozen=True, kw_only=True)
class Results:
    """The trials of a search, each choice once, in the order in which they were begun."""

    search: Search
    trials: tuple[Trial, ...]

    @property
    def scored(self) -> list[Trial]:
        """Those that did not fail."""
        return [trial for trial in self.trials if trial.found is not None]

    @property
    def front(self) -> list[Trial]:
        """Those that no other one is better than in both objectives, cheapest first."""
        return _front(self.scored)

    @property
    def uniform(self) -> list[Trial]:
        """Those with one ratio for all layers, cheapest first."""
        chosen = [trial for trial in self.scored if trial.is_uniform]
        return sorted(chosen, key=lambda trial: -max(trial.ratios.values()))

    def area(self, trials: Sequence[Trial]) -> float:
        """The share of the area between the dense network's cost and full accuracy that `trials` dominate."""
        return hypervolume([trial.found.score for trial in trials if trial.found], DENSE)

    def summary(self) -> dict[str, float]:
        """Numbers of the whole search."""
        return {
            "trials": float(len(self.trials)),
            "failed": float(len(self.trials) - len(self.scored)),
            "front": float(len(self.front)),
            "front_searched": float(sum(not trial.is_uniform for trial in self.front)),
            "area_all": self.area(self.scored),
            "area_uniform": self.area(self.uniform),
        }


def _front(trials: Sequence[Trial]) -> list[Trial]:
    return [trials[place] for place in front([trial.found.score for trial in trials if trial.found])]


def rows_of(results: Results, trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """A row for each trial: numbers (null for one that failed), then the ratio of each group."""
    best = {trial.number for trial in results.front}
    rows = []
    for trial in trials:
        numbers: dict[str, Any] = dict.fromkeys(NUMBERS) | {"worst_case_low": None, "worst_case_high": None}
        if trial.found is not None:
            low, high = trial.found.interval
            numbers = asdict(trial.found) | {"worst_case_low": low, "worst_case_high": high}
        rows.append(
            {
                "trial": trial.number,
                "kind": "uniform" if trial.is_uniform else "searched",
                "on_front": trial.number in best,
                **numbers,
                "error": trial.error,
            }
            | {f"ratio/{group}": ratio for group, ratio in trial.ratios.items()}
        )
    return rows


def write_tables(results: Results, folder: Path) -> None:
    """Write `trials.csv` and `.parquet`, and `front.csv`."""
    import polars

    real, text = polars.Float64(), polars.String()
    schema: dict[str, polars.DataType] = {"trial": polars.Int64(), "kind": text, "on_front": polars.Boolean()}
    schema |= dict.fromkeys((*NUMBERS, "worst_case_low", "worst_case_high"), real) | {"error": text}
    schema |= {"images": polars.Int64()} | {f"ratio/{group}": real for group in results.search.groups}
    rows = rows_of(results, results.trials)
    write_csv(folder / f"{TRIALS}.csv", list(schema), rows)
    write_csv(folder / f"{FRONT}.csv", list(schema), rows_of(results, results.front))
    polars.DataFrame(rows, schema=schema, orient="row").write_parquet(folder / f"{TRIALS}.parquet")


def winners(results: Results, params: Path) -> dict[str, Any]:
    """The parameter file `params` with the ratios of the front, and the uniform ones to compare with.

    What else the file leaves open is as the search had it. Its networks are attacked on test images, as those
    of any parameter file.
    """
    base, content = results.search.base, read_yaml(params)
    assert base.finetune is not None
    own = [trial for trial in results.front if not trial.is_uniform]
    named = {f"front_{place}": trial for place, trial in enumerate(own, start=1)}
    content["pretrain"] = (content.get("pretrain") or {}) | {
        "defense": base.pretrain.defense.model_dump(mode="json")
    }
    content["distill"] = (content.get("distill") or {}) | {"randomize": base.distill.randomize}
    content["attack"] = content["attack"] | {"ensemble": base.attack.ensemble}
    content["finetune"] = (content.get("finetune") or {}) | {
        "defenses": None,
        "ratio": [ratio for ratio in results.search.uniform if ratio > 0],
        "pattern": [],
        "layer_ratios": {
            name: results.search.rule(trial.choice, name)["layer_ratios"] for name, trial in named.items()
        },
        "target": base.finetune.target,
        "objective": base.finetune.objective,
    }
    ExperimentSet.model_validate(content)
    return content


def write_winners(results: Results, params: Path, folder: Path) -> None:
    """Write `winners.yaml`: see `winners`."""
    heading = (
        f"# {params.name} with the ratios by layer on the front of a search, cheapest first, and the\n"
        "# uniform ratios beside it. The search chose by validation images; test images are attacked by\n"
        f"# python -m pipeline.stages.attack --params {folder / WINNERS}\n"
    )
    text = yaml.safe_dump(winners(results, params), sort_keys=False, allow_unicode=True, width=110)
    write_atomically(folder / WINNERS, heading + text)
