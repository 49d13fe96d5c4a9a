"""What was measured on each network, whatever its seeds: one number with its interval, from tracked runs.

Figures and findings read runs through this module. A network is everything of its identity but the seed; runs
of one network that differ in the protocol or in the data are kept apart and never averaged.
"""

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from statistics import fmean
from typing import Any

import polars as pl

from analysis import names, protocol
from analysis.comparison import difference
from analysis.measurement import Measurement
from analysis.runs import FINISHED
from analysis.statistics import spread
from analysis.tables.robustness import IDENTITY, NOISE, TEACHER, WORST_CASE, cell

NETWORK = tuple(name for name in IDENTITY if name != "seed")
# What a network has in common with the dense teacher that it is compared with.
FROM_TEACHER = tuple(name for name in TEACHER if name != "seed")
CLEAN = "clean"
STRAIGHT = "straight_through"
KINDS = {"pgd": "PGD", "fgsm": "FGSM", "mifgsm": "MIFGSM"} | names.ADAPTIVE


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A number with its 95% interval.

    `images` is the denominator of every share behind it (None where it is no share), `seeds` how many
    trainings it is the mean of, `run_ids` the runs that it comes from.
    """

    value: float
    interval: tuple[float, float]
    images: int | None
    seeds: int
    run_ids: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Attack:
    """One attack as it was tracked; `eps` in steps of 1/255, None where it has no radius."""

    name: str
    kind: str
    eps: float | None
    steps: int | None
    gradient: str
    adaptive: bool

    @property
    def family(self) -> str:
        """What attacks of one curve have in common: "PGD-20, blocked"."""
        kind = KINDS.get(self.kind, self.kind.replace("_", " "))
        steps = f"-{self.steps}" if self.steps else ""
        return f"{kind}{steps}, {self.gradient.replace('_', '-')}"


@dataclass(frozen=True, kw_only=True)
class Network:
    """The newest finished run of each seed of one network at one stage, ascending by seed."""

    identity: Mapping[str, Any]
    data_fingerprint: str | None
    runs: tuple[Mapping[str, Any], ...]

    @property
    def is_dense(self) -> bool:
        """Whether it computes everything precisely."""
        return self.identity["defence"] == "dense"

    @property
    def is_plain(self) -> bool:
        """Whether nothing but the amount and the target of its noise departs from the pipeline's defaults."""
        usual = (name for name in names.USUAL if name != "target")
        return (self.identity["ensemble"] or 1) == 1 and all(
            self.identity[name] in (None, names.USUAL[name]) for name in usual
        )

    @property
    def label(self) -> str:
        """As tables write it, without the seed."""
        return names.variant_name(dict(self.runs[0]))

    @property
    def subject(self) -> str:
        """The architecture and the data: "small_resnet on cifar10"."""
        return f"{self.identity['model']} on {self.identity['dataset']}"

    @property
    def title(self) -> str:
        """Architecture, data and label within a sentence: "small_resnet on cifar10, ratio 0.9, clean"."""
        return f"{self.subject}, {self.label[0].lower()}{self.label[1:]}"

    @property
    def noisy_share(self) -> float | None:
        """Share of the neurons that get noise, 0 for the dense network; None where each layer has its own."""
        if self.is_dense:
            return 0.0
        if self.identity["layer_ratios"]:
            return None
        if self.identity["pattern"]:
            noisy, of_every = map(int, self.identity["pattern"].split(":"))
            return noisy / of_every
        ratio = self.identity["ratio"]
        return None if ratio is None else float(ratio)

    @cached_property
    def attacks(self) -> Mapping[str, Attack]:
        """The attacks that it was under by name, in the protocol's order."""
        settings = protocol.tracked_settings(self.runs[0]["params"])
        measured = (name.partition("/")[2] for name in self.runs[0] if name.startswith("accuracy/"))
        known = [name for name in measured if name not in names.WHOLE and self.accuracy(name)]
        return {name: _attack(name, settings.get(name, {})) for name in names.attack_order(known)}

    @property
    def has_adaptive_worst_case(self) -> bool:
        """Whether its worst case includes an attacker who knows the defence."""
        settings = protocol.tracked_settings(self.runs[0]["params"])
        return self.accuracy(WORST_CASE) is not None and any(
            attack.adaptive and protocol.counts_in_worst_case(name, settings.get(name, {}))
            for name, attack in self.attacks.items()
        )

    def accuracy(self, column: str) -> Measured | None:
        """The accuracy under the attack `column` (or "clean", "worst_case"); None if a seed lacks it.

        Of one seed with its Wilson interval over the images, of several the mean with Student's t interval
        over the seeds, which has what the images do to it in it as well.
        """
        shares = [cell(run, column) for run in self.runs]
        if any(share is None for share in shares):
            return None
        found = Measurement(
            seeds=tuple(run["seed"] for run in self.runs),
            shares=tuple(share for share in shares if share is not None),
        )
        return Measured(
            value=found.value,
            interval=found.interval,
            images=found.images,
            seeds=len(found.shares),
            run_ids=tuple(run["run_id"] for run in self.runs),
        )

    def metric(self, name: str) -> Measured | None:
        """The mean over the seeds of a tracked metric; None if a seed lacks it.

        The interval is Student's over the seeds; of one seed it is the value alone.
        """
        return self.value_of(lambda run: run.get(name))

    def value_of(self, number: Callable[[Mapping[str, Any]], float | None]) -> Measured | None:
        """The same of any number of a run."""
        values = [value for run in self.runs if (value := number(run)) is not None]
        if len(values) < len(self.runs):
            return None
        return Measured(
            value=fmean(values),
            interval=mean_interval(values),
            images=None,
            seeds=len(values),
            run_ids=tuple(run["run_id"] for run in self.runs),
        )

    @property
    def cost(self) -> float | None:
        """Nominal BitOPs as a share of the dense network's; None where it is not recorded."""
        nominal, dense = self.runs[0]["bitops_nominal"], self.runs[0]["bitops_dense"]
        return nominal / dense if nominal is not None and dense else None


def networks(runs: pl.DataFrame, *, stage: str = "attack") -> list[Network]:
    """The networks of the finished runs of `stage` (rows of `analysis.load_runs`), in the order of tables."""
    # every figure and every second claim asks for those of the same frame, which nobody changes
    frame, found = _LATEST.get(stage, (None, ()))
    if frame is None or frame() is not runs:
        found = tuple(_networks(runs, stage))
        _LATEST[stage] = (weakref.ref(runs), found)
    return list(found)


_LATEST: dict[str, tuple[weakref.ref[pl.DataFrame], tuple[Network, ...]]] = {}


def _networks(runs: pl.DataFrame, stage: str) -> list[Network]:
    newest: dict[tuple[Any, ...], dict[str, Any]] = {}
    chosen = runs.filter((pl.col("stage") == stage) & (pl.col("status") == FINISHED))
    for run in chosen.sort("start_ms").iter_rows(named=True):
        if run["defence"] is None:
            continue
        known = run | dict.fromkeys(NOISE) if run["defence"] == "dense" else run
        newest[tuple(known[name] for name in IDENTITY)] = known
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for run in sorted(newest.values(), key=names.variant_order):
        alike = (*(run[name] for name in NETWORK), run["data_fingerprint"], run["images"], run["params"])
        groups.setdefault(alike, []).append(run)
    return [
        Network(
            identity={name: own[0][name] for name in NETWORK},
            data_fingerprint=own[0]["data_fingerprint"],
            runs=tuple(own),
        )
        for own in groups.values()
    ]


def teacher_of(network: Network, among: Iterable[Network]) -> Network | None:
    """The dense network that `network` is compared with: same model, data and training, one pass."""
    for dense in among:
        alike = all(dense.identity[name] == network.identity[name] for name in FROM_TEACHER)
        single = (dense.identity["ensemble"] or 1) == 1
        if dense.is_dense and alike and single and dense.data_fingerprint == network.data_fingerprint:
            return dense
    return None


def change(now: Measured, before: Measured) -> Measured:
    """How much larger `now` is than `before`, as `analysis.comparison.difference` says."""
    found = difference(now, before)
    return Measured(
        value=found.value,
        interval=(found.low, found.high),
        images=now.images,
        seeds=now.seeds,
        run_ids=(*now.run_ids, *before.run_ids),
    )


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Student's 95% interval of the mean of `values`; the value alone where there is only one."""
    found = spread(values)
    return found.interval or (found.mean, found.mean)


def _attack(name: str, settings: Mapping[str, str]) -> Attack:
    known = names.KNOWN_ATTACK.fullmatch(name)
    kind = settings.get("kind") or (known["family"] if known else protocol.kind_of(name, settings))
    eps = settings.get("eps") or (f"{known['radius']}/255" if known and known["radius"] else None)
    steps = settings.get("steps") or (known["steps"] if known else None)
    straight = known is not None and known["straight"] is not None
    return Attack(
        name=name,
        kind=kind,
        eps=None if eps is None else round(255 * float(Fraction(eps)), 6),
        steps=int(steps) if steps else None,
        gradient=settings.get("gradient") or (STRAIGHT if straight else "blocked"),
        adaptive=kind in protocol.ADAPTIVE,
    )
