"""What a number may be used for: a claim, a comparison with the paper, or a first look."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction

from analysis import names, protocol
from analysis.measurement import Run, Source
from analysis.paper_layout import DATASETS, EPOCHS, SETTINGS, Layout, column_title


@dataclass(frozen=True, kw_only=True)
class Fitness:
    """Whether a number is fit for a claim, with the denominators, and what stands against it.

    `against_claim` is about the runs themselves, `against_comparison` about setting them beside what the
    paper prints; both are in words and empty where nothing stands against it.
    """

    images: int | None
    test_images: int | None
    seeds: int
    wanted_seeds: int
    against_claim: tuple[str, ...]
    against_comparison: tuple[str, ...]

    @property
    def is_claim(self) -> bool:
        """Whether the number is fit for a claim; else it is exploratory."""
        return not self.against_claim

    @property
    def is_comparable(self) -> bool:
        """Whether the printed number is of the same network, data and protocol."""
        return self.is_claim and not self.against_comparison

    @property
    def denominators(self) -> str:
        """How much of what was wanted is there: "400 of 10000 images, 1 of 3 seeds"."""
        images = f"{self.images or 0} of {self.test_images or 'an unknown number of'} images"
        return f"{images}, {self.seeds} of {self.wanted_seeds} seed{'s' * (self.wanted_seeds != 1)}"


@dataclass(frozen=True, kw_only=True)
class Stages:
    """The finished runs of all stages, by content key."""

    by_key: Mapping[str, Run]

    @classmethod
    def of(cls, runs: Iterable[Run]) -> "Stages":
        """From rows of `analysis.load_runs`."""
        return cls(by_key={run["key"]: run for run in runs if run["key"]})

    def before(self, run: Run) -> dict[str, Run]:
        """The stages that `run` rests on, by name, as far as they are tracked."""
        keys = json.loads(run["upstream_keys"] or "{}")
        return {stage: self.by_key[key] for stage, key in keys.items() if key in self.by_key}


def fitness(source: Source, column: str, stages: Stages, *, layout: Layout, dataset: str) -> Fitness:
    """What the number of `source` in `column` may be used for, beside table `layout`."""
    images = next((run["images"] for run in source.runs), None)
    test_images = _test_images(source, stages, dataset)
    there = {seed for seed in source.seeds if seed is not None}
    wanted = source.wanted_seeds or there
    against = []
    if images is None or images != test_images:
        against.append(f"{images or 0} of {test_images or 'an unknown number of'} test images")
    if not there >= wanted:
        against.append(f"{len(there & wanted)} of {len(wanted)} seeds")
    if dirty := _dirty(source, stages):
        against.append(f"uncommitted changes ({names.listed(dirty)})")
    if len(source.commits) > 1:
        against.append(f"{len(source.commits)} commits")
    if departures := protocol_departures(source, column):
        against.append(f"another protocol than the paper's ({'; '.join(departures)})")
    return Fitness(
        images=images,
        test_images=test_images,
        seeds=len(there) or len(source.runs),
        wanted_seeds=max(len(wanted), 1),
        against_claim=tuple(against),
        against_comparison=tuple(_other_networks(source, stages, layout, dataset)),
    )


def protocol_departures(source: Source, column: str) -> list[str]:
    """Where the attack `column` had other settings than the paper's; none for what the paper has not."""
    found = []
    for field, value in SETTINGS.get(column, {}).items():
        had = {each[column][field] for each in source.settings if field in each.get(column, {})}
        other = sorted(protocol.readable(field, text) for text in had if not _same(text, value))
        if other:
            found.append(f"{column_title(column)} with {field.replace('_', ' ')} {', '.join(other)}")
    return found


def _same(text: str, value: str) -> bool:
    """Whether two settings are equal as numbers, or else as texts."""
    try:
        return abs(float(Fraction(text)) - float(Fraction(value))) < 1e-9
    except (ValueError, ZeroDivisionError):
        return text == value


def _test_images(source: Source, stages: Stages, dataset: str) -> int | None:
    """How large the test set is: as the paper says, or else as it was prepared where that was all of it."""
    if dataset in DATASETS:
        return DATASETS[dataset].test_images
    for prepared in _prepared(source, stages):
        count = prepared.get("images/test")
        if count is not None and json.loads(prepared["params"] or "{}").get("test_images") == "null":
            return int(count)
    return None


def _prepared(source: Source, stages: Stages) -> list[Run]:
    return [before["prepare"] for run in source.runs if "prepare" in (before := stages.before(run))]


def _dirty(source: Source, stages: Stages) -> list[str]:
    """The stages that were computed with uncommitted changes."""
    every = [{"attack": run} | stages.before(run) for run in source.runs]
    return sorted({stage for each in every for stage, run in each.items() if run["git_dirty"]})


def _other_networks(source: Source, stages: Stages, layout: Layout, dataset: str) -> Iterable[str]:
    """How the networks differ from the paper's."""
    models = {run["model"] for run in source.runs} - {layout.model}
    if models:
        yield f"{names.listed(sorted(map(str, models)))} in place of {layout.network}"
    epochs = {run["pretrain_epochs"] for run in source.runs} - {EPOCHS, None}
    if epochs:
        yield f"{names.listed(map(str, sorted(epochs)))} epochs of training in place of {EPOCHS}"
    if dataset not in DATASETS:
        yield f"{dataset} in place of {names.listed(each.title for each in DATASETS.values())}"
        return
    all_images = DATASETS[dataset].train_images
    counts = {
        json.loads(prepared["params"] or "{}").get("train_images") for prepared in _prepared(source, stages)
    }
    if fewer := sorted(int(count) for count in counts if count not in (None, "null", str(all_images))):
        yield f"{names.listed(map(str, fewer))} of {all_images} training images"
