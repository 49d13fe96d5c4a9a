"""What stages cost: measured where they have run, and carried over to those that have not.

An entry of the store says how long it took, on how many cores. Divided by its work (`pipeline.work`) that is
a rate; the median of the rates of a kind of stage, times the work of a new one, is the estimate, and their
spread its uncertainty. Rates of the same network are preferred, since none is as fast as its
multiplications say.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import quantiles

from nenni_core.data import dataset_extent
from pipeline.config import Section
from pipeline.defense_choice import DefenseChoice
from pipeline.graph import Node, NodeId
from pipeline.keys import VERSIONS, own_section, stage_section
from pipeline.store import Manifest, Store
from pipeline.work import Facts, stage_work

MOST_READ = 200
"""Manifests of a kind of stage that are read: their keys are hashes, so the first are a random sample."""


@dataclass(frozen=True)
class Estimate:
    """Core-seconds of a stage: a middle value, and the range of 80% of the measured rates."""

    middle: float
    low: float
    high: float

    def __add__(self, other: "Estimate") -> "Estimate":
        """Of two stages; ranges add up, as where one machine is slower in everything."""
        return Estimate(self.middle + other.middle, self.low + other.low, self.high + other.high)


NOTHING = Estimate(0.0, 0.0, 0.0)


class Rates:
    """Core-seconds for each unit of work, by kind of stage and network, and by kind of stage alone."""

    def __init__(self, measured: Mapping[tuple[str, str], Sequence[float]]) -> None:
        """`measured`: rates by kind of stage and architecture."""
        self._by_network = {name: _spread(rates) for name, rates in measured.items()}
        by_stage: dict[str, list[float]] = {}
        for (stage, _), rates in measured.items():
            by_stage.setdefault(stage, []).extend(rates)
        self._by_stage = {stage: _spread(rates) for stage, rates in by_stage.items()}
        self._work: dict[tuple[str, int, Facts], tuple[Section, float]] = {}

    def estimate(self, node: Node) -> Estimate | None:
        """What a stage will take; None if no stage of its kind was ever measured."""
        facts = facts_of(node)
        spread = self._by_network.get((node.id.stage, facts.model)) or self._by_stage.get(node.id.stage)
        if spread is None:
            return None
        low, middle, high = spread
        work = self._work_of(node, facts)
        return Estimate(middle * work, low * work, high * work)

    def _work_of(self, node: Node, facts: Facts) -> float:
        stage, experiment = node.id.stage, node.plan.experiment
        section = own_section(stage, experiment)
        name = stage, id(section), facts
        if name not in self._work:
            # the section, which many experiments share, is kept so that no other one gets its `id`
            self._work[name] = section, stage_work(stage, stage_section(stage, experiment), facts)
        return self._work[name][1]


def _spread(rates: Sequence[float]) -> tuple[float, float, float]:
    """10th, 50th and 90th percentile."""
    if len(rates) == 1:
        return rates[0], rates[0], rates[0]
    cuts = quantiles(rates, n=10, method="inclusive")
    return cuts[0], cuts[4], cuts[8]


def facts_of(node: Node) -> Facts:
    """What the work of a stage of the graph depends on."""
    experiment = node.plan.experiment
    prepare = experiment.prepare
    extent = dataset_extent(prepare.dataset)
    limit = extent.train_images if prepare.train_images is None else prepare.train_images
    return Facts(
        model=experiment.pretrain.architecture,
        dataset=prepare.dataset,
        train_images=max(limit - prepare.validation_images, 1),
        validation_images=prepare.validation_images,
        test_images=extent.test_images if prepare.test_images is None else prepare.test_images,
    )


def measured_rates(store: Store, *, device: str) -> Rates:
    """The rates of what is in a store and was computed on a kind of `device` such as "cpu"."""
    manifests = _manifests(store)
    by_key = {manifest.key: manifest for manifest in manifests}
    measured: dict[tuple[str, str], list[float]] = {}
    for manifest in manifests:
        facts = _recorded_facts(manifest, by_key)
        if facts is None or (manifest.device != device and manifest.stage != "prepare"):
            continue
        work = stage_work(manifest.stage, manifest.config, facts)
        rate = manifest.seconds * manifest.threads / work
        measured.setdefault((manifest.stage, facts.model), []).append(rate)
    return Rates(measured)


def _manifests(store: Store) -> list[Manifest]:
    """Manifests of each kind of stage; damaged ones, and those of older code, are passed over."""
    keys: dict[str, list[str]] = {}
    for stage, key in store.names():
        keys.setdefault(stage, []).append(key)
    # those of the networks and the data are needed to make sense of the others
    read = {stage: of if stage in ("prepare", "pretrain") else of[:MOST_READ] for stage, of in keys.items()}
    manifests = (store.manifest(stage, key) for stage, of_stage in read.items() for key in of_stage)
    return [
        manifest
        for manifest in manifests
        # a configuration of older code may lack what is read of it here
        if manifest is not None and manifest.stage_version == VERSIONS.get(manifest.stage)
    ]


def _recorded_facts(manifest: Manifest, by_key: Mapping[str, Manifest]) -> Facts | None:
    """What the work of a stored stage depended on, from the manifests of the stages before it."""
    above = list(_ancestors(manifest, by_key))
    data = next((other for other in above if other.stage == "prepare"), None)
    trained = next((other for other in above if other.stage == "pretrain"), None)
    if data is None or (trained is None and manifest.stage != "prepare"):
        return None
    counts = {split: int(data.metrics.get(f"images/{split}", 0)) for split in ("train", "validation", "test")}
    return Facts(
        model=_architecture(trained) if trained is not None else "",
        dataset=data.config["dataset"],
        train_images=counts["train"],
        validation_images=counts["validation"],
        test_images=counts["test"],
    )


def _architecture(trained: Manifest) -> str:
    defense = DefenseChoice.model_validate(trained.config["defense"]).defense()
    return defense.architecture(trained.config["model"])


def _ancestors(manifest: Manifest, by_key: Mapping[str, Manifest]) -> Iterable[Manifest]:
    """The manifest itself, and all above it that are known."""
    yield manifest
    for key in manifest.upstream.values():
        if key in by_key:
            yield from _ancestors(by_key[key], by_key)


def total(estimates: Mapping[NodeId, Estimate | None], names: Iterable[NodeId]) -> tuple[Estimate, int]:
    """The sum over stages, and how many of them have no estimate."""
    added, unknown = NOTHING, 0
    for name in names:
        estimate = estimates[name]
        if estimate is None:
            unknown += 1
        else:
            added += estimate
    return added, unknown
