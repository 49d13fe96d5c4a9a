"""Which tracked runs stand behind one method on one data set, and the numbers that they give together."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isclose
from typing import Any

from analysis import names, protocol
from analysis.comparison import Share
from analysis.masking import Verdict, read_verdict
from analysis.paper_layout import Method
from analysis.runs import FINISHED
from analysis.statistics import Spread, spread
from analysis.tables.robustness import WORST_CASE, cell

Run = Mapping[str, Any]
MISSING, NOT_ASKED = "missing", "not attacked"
# What runs must have in common before their numbers are averaged or set against each other.
COMMON = {"data_fingerprint": "test data", "images": "numbers of images"}


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """An accuracy, one share for each seed, all of the same images under the same protocol."""

    seeds: tuple[int | None, ...]
    shares: tuple[Share, ...]

    @cached_property
    def spread(self) -> Spread:
        """Mean and spread over the seeds, fractions."""
        return spread([share.value for share in self.shares])

    @property
    def value(self) -> float:
        """The mean over the seeds, a fraction from 0 to 1."""
        return self.spread.mean

    @property
    def images(self) -> int:
        """How many test images each seed's share is of."""
        return self.shares[0].images

    @property
    def image_interval(self) -> tuple[float, float]:
        """The 95% Wilson interval over the choice of images, of the mean over the seeds."""
        correct = sum(share.correct for share in self.shares) / len(self.shares)
        return Share(correct=correct, images=self.images).interval

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% interval to show: of the mean over the seeds; over the images where there is one seed."""
        ends = self.spread.interval
        return self.image_interval if ends is None else (max(0.0, ends[0]), min(1.0, ends[1]))


@dataclass(frozen=True, kw_only=True)
class Source:
    """The runs of one method on one data set: the newest finished one of each seed.

    `wanted_seeds` are those that the set asks for, `asked` the attacks that it asks for beside those that the
    runs have; both may be empty where nobody knows. `ambiguous` says what tells networks apart that would be
    taken for one another, if any are.
    """

    runs: tuple[Run, ...]
    unfinished: tuple[Run, ...] = ()
    wanted_seeds: frozenset[int] = frozenset()
    asked: frozenset[str] = frozenset()
    ambiguous: str = ""

    @property
    def seeds(self) -> tuple[int | None, ...]:
        """The seeds that are there, in their order."""
        return tuple(run["seed"] for run in self.runs)

    @property
    def random(self) -> bool:
        """Whether the networks draw noise anew for every image."""
        return any(run["random"] or run["randomize"] in protocol.RANDOM for run in self.runs)

    @cached_property
    def settings(self) -> tuple[Mapping[str, protocol.Settings], ...]:
        """The tracked settings of all attacks, one mapping for each run."""
        return tuple(protocol.tracked_settings(run["params"]) for run in self.runs)

    def measurement(self, column: str) -> Measurement | str:
        """The number in `column`, or why there is none, in a few words."""
        if self.ambiguous:
            return f"mixed: {self.ambiguous}"
        found = [(run["seed"], share) for run in self.runs if (share := cell(run, column))]
        if not found:
            return self._gap(column)
        if differing := self.differing(column):
            return f"mixed: different {names.listed(differing)}"
        seeds, shares = zip(*found, strict=True)
        return Measurement(seeds=seeds, shares=shares)

    def _gap(self, column: str) -> str:
        attacked = not self.runs or column in self.asked or column in names.WHOLE
        if not attacked:
            return NOT_ASKED
        states = sorted({run["status"].lower() for run in self.unfinished})
        return f"{MISSING} ({', '.join(states)})" if states and not self.runs else MISSING

    def differing(self, column: str, other: "Source | None" = None) -> list[str]:
        """What the runs, and those of `other`, do not have in common behind `column`, in words."""
        runs = self.runs + (other.runs if other else ())
        settings = self.settings + (other.settings if other else ())
        found = [what for name, what in COMMON.items() if len({run[name] for run in runs}) > 1]
        if not _agree([behind(column, each) for each in settings]):
            found.append("attack settings")
        return found

    @property
    def commits(self) -> tuple[str, ...]:
        """The commits that made the numbers, in the order of the seeds."""
        return tuple(dict.fromkeys(str(run["git_commit"] or "unknown") for run in self.runs))

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """The verdicts on masked gradients, of the runs that have one."""
        return tuple(verdict for run in self.runs if (verdict := read_verdict(run)))

    def cost(self, name: str = "bitops_nominal") -> float | None:
        """BitOPs of one image as a share of the dense network's; None where no run has recorded them."""
        for run in self.runs:
            if run[name] is not None and run["bitops_dense"]:
                return float(run[name] / run["bitops_dense"])
        return None


def behind(column: str, settings: Mapping[str, protocol.Settings]) -> dict[str, protocol.Settings]:
    """The settings that decide on `column`: its own, and for the worst case those of all that count."""
    if column == WORST_CASE:
        return {attack: own for attack, own in settings.items() if protocol.counts_in_worst_case(attack, own)}
    return {column: settings[column]} if column in settings else {}


def _agree(several: Sequence[Mapping[str, protocol.Settings]]) -> bool:
    """Whether no attack has two settings; an attack that one of them lacks is not held against it."""
    first: dict[str, protocol.Settings] = {}
    return all(first.setdefault(attack, own) == own for each in several for attack, own in each.items())


def is_of(run: Run, method: Method) -> bool:
    """Whether `run`, or a wanted network, is of `method` as the paper has it: single pass, usual settings."""
    if (run.get("ensemble") or 1) != 1:
        return False
    if not method.is_noise:
        return run["defence"] == "dense" and (run.get("trained_by") or "adversarial") == method.trained_by
    if run["defence"] == "dense" or run.get("trained_by") not in names.PLAIN or run.get("layer_ratios"):
        return False
    if any(run.get(name) not in (None, usual) for name, usual in names.USUAL.items()):
        return False
    if method.pattern is not None:
        return run.get("pattern") == method.pattern
    ratio = run.get("ratio")
    return method.ratio is not None and ratio is not None and isclose(ratio, method.ratio)


def choose(
    runs: Iterable[Run], wanted: Iterable[Run], asked: Iterable[str], *, all_seeds: Iterable[int]
) -> Source:
    """The source made of `runs`, all of one method on one data set with one model; see `Source`.

    `wanted` are the networks of it that the set asks for; where there are none, it is held to have wanted
    `all_seeds`.
    """
    newest: dict[Any, Run] = {}
    unfinished: dict[Any, Run] = {}
    apart: set[int] = set()
    for run in sorted(runs, key=lambda run: run["start_ms"] or 0):
        chosen = newest if run["status"] == FINISHED else unfinished
        chosen[run["seed"]] = run
        if run["status"] == FINISHED and run["pretrain_epochs"] is not None:
            apart.add(run["pretrain_epochs"])
    seeds = frozenset(one["seed"] for one in wanted) or frozenset(all_seeds)
    return Source(
        runs=tuple(newest[seed] for seed in sorted(newest, key=_seed_order)),
        unfinished=tuple(run for seed, run in unfinished.items() if seed not in newest),
        wanted_seeds=seeds,
        asked=frozenset(asked),
        ambiguous=f"{names.listed(map(str, sorted(apart)))} epochs of training" if len(apart) > 1 else "",
    )


def _seed_order(seed: int | None) -> tuple[bool, int]:
    return seed is None, seed or 0
