"""What a search for ratios by layer looks for: the choices, the experiment of a choice, and its score.

A choice names a step for every group of layers. Its network is fine-tuned, attacked and simulated as any
other variant is, but on validation images: what is reported at the end is of test images, which then have had
no part in choosing.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nenni_core.chain.artifacts import DATASET
from nenni_core.chain.runtime import Runtime
from nenni_core.errors import InputError
from nenni_core.files import canonical_json, read_json
from nenni_core.statistics import wilson_interval
from pipeline.config import Attack, FineTune, Ratio, Simulate
from pipeline.data_check import layer_names
from pipeline.experiment import Experiment, ExperimentSet
from pipeline.pareto import Score
from pipeline.runner import Plan, ensure, plan
from pipeline.store import Entry, Store

STEPS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
"""Ratios that a group of layers can have, unless told otherwise."""
UNIFORM = (0.5, 0.9, 0.99)
"""Ratios for all layers that a search is compared with, if the parameter file has none; the paper's."""
NO_NOISE = 0.0
EDP = "energy_delay_joule_seconds_over_dense"

By = Literal["layer", "stage"]
SamplerName = Literal["tpe", "nsga2"]
Choice = Mapping[str, int]
"""The place in `Search.steps` of each group's ratio."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What is known of one network: shares and means over validation images."""

    worst_case: float
    """Share of the images that are right under all attacks together."""
    clean: float
    images: int
    edp: float
    """Energy x time with the measured masks, over the dense network's."""
    seconds: float
    """Likewise."""
    joules: float
    """Likewise."""
    bitops: float
    """Likewise, of all bit operations."""

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% interval of `worst_case` (Wilson)."""
        return wilson_interval(self.worst_case * self.images, self.images)

    @property
    def score(self) -> Score:
        """The objectives."""
        return Score(self.worst_case, self.edp)


@dataclass(frozen=True, kw_only=True)
class Search:
    """One network, and what its layers may be given."""

    base: Experiment
    """The experiment of any choice, but for where the noise goes."""
    groups: Mapping[str, tuple[str, ...]]
    """Layers that share a ratio, by the group's name; every layer is in one group."""
    steps: tuple[float, ...]
    """Ratios to choose from, ascending."""
    uniform: tuple[float, ...]
    """Ratios that all layers get, one network each, for comparison; among `steps`."""

    def uniform_choices(self) -> list[dict[str, int]]:
        """The choices of `uniform`."""
        return [dict.fromkeys(self.groups, self.steps.index(ratio)) for ratio in self.uniform]

    def ratios(self, choice: Choice) -> dict[str, float]:
        """The ratio of each group."""
        return {group: self.steps[choice[group]] for group in self.groups}

    def rule(self, choice: Choice, name: str = "searched") -> dict[str, Any]:
        """The choice as the fields of a variant; one ratio for all layers is the variant of that ratio."""
        ratios = self.ratios(choice)
        if len(set(ratios.values())) == 1:
            return {"ratio": next(iter(ratios.values()))}
        by_layer = {layer: ratios[group] for group, layers in self.groups.items() for layer in layers}
        return {"layer_ratios": by_layer, "layer_ratios_name": name}

    def experiment(self, choice: Choice) -> Experiment:
        """The experiment that finds out what a choice is worth."""
        assert self.base.finetune is not None
        no_rule = {"ratio": None, "pattern": None, "layer_ratios": None, "layer_ratios_name": None}
        rule = FineTune(**(dict(self.base.finetune) | no_rule | self.rule(choice)))
        return self.base.model_copy(update={"finetune": rule})

    def identity(self) -> str:
        """A hash of all that a score depends on, but the choice: of the keys, the groups and the steps."""
        [planned] = plan([self.experiment(self.uniform_choices()[0])])
        content = {"keys": dict(planned.keys), "groups": dict(self.groups), "steps": self.steps}
        return hashlib.sha256(canonical_json(content).encode()).hexdigest()

    def evaluate(self, choice: Choice, store: Store, runtime: Runtime) -> Found:
        """Compute what is missing for the score of a choice; raises what the stages raise."""
        [planned] = plan([self.experiment(choice)])
        simulated = ensure("simulate", planned, store=store, runtime=runtime)
        return found_in(planned, simulated, ensure("attack", planned, store=store, runtime=runtime))

    def look_up(self, choice: Choice, store: Store) -> Found | None:
        """What the store knows of a choice that was evaluated; None if it lacks an entry."""
        [planned] = plan([self.experiment(choice)])
        simulated, attacked = (store.find(stage, planned.keys[stage]) for stage in ("simulate", "attack"))
        return found_in(planned, simulated, attacked) if simulated and attacked else None


def found_in(planned: Plan, simulated: Entry, attacked: Entry) -> Found:
    """The scores in the entries of one network; of the designs the first one that runs it counts."""
    assert planned.experiment.simulate is not None
    cores = planned.experiment.simulate.cores
    core = next(name for name in cores if f"{EDP}/{name}/measured" in simulated.metrics)
    of_dense = {
        name: simulated.metrics[f"{metric}/{core}/measured"]
        for name, metric in {
            "edp": EDP,
            "seconds": "seconds_over_dense",
            "joules": "joules_over_dense",
        }.items()
    }
    return Found(
        **of_dense,
        worst_case=attacked.metrics["accuracy/worst_case"],
        clean=attacked.metrics["accuracy/clean"],
        images=int(attacked.metrics["images"]),
        bitops=attacked.metrics["bitops_measured"] / attacked.metrics["bitops_dense"],
    )


def first_with_noise(parameters: ExperimentSet) -> tuple[Experiment, int]:
    """The first network of a set that noise goes into, and how many there are but for where it goes.

    Raises `InputError` if the set lacks what a search needs.
    """
    if parameters.simulate is None:
        raise InputError("the parameter file has no section `simulate`; expected one: it gives the cost")
    anywhere = {"ratio": (NO_NOISE,), "pattern": (), "layer_ratios": {}}
    rules = parameters.finetune.model_copy(update=anywhere)
    experiments = parameters.model_copy(update={"finetune": rules}).experiments()
    noisy = [experiment for experiment in experiments if experiment.finetune is not None]
    return noisy[0], len(noisy)


def search_for(
    first: Experiment,
    prepared: Path,
    *,
    images: int | None,
    uniform: Sequence[float],
    steps: Sequence[float],
    by: By,
) -> Search:
    """The search for the ratios of the network of `first`, on validation images.

    Args:
        first: its rule does not matter.
        prepared: the entry of its data.
        images: validation images to attack; None for as many as the test images that the file asks for.
        uniform: ratios of all layers to compare with; no noise at all is added.
        steps: ratios of a group; those of `uniform` are added.
        by: whether each layer has a ratio, or each stage of the network.

    Raises:
        InputError: there are not as many validation images.
    """
    available = read_json(prepared / DATASET)["images"]["validation"]
    if images is not None and images > available:
        raise InputError(f"--images is {images}; expected at most {available}, the validation images")
    wanted = images or first.attack.images or available
    assert first.simulate is not None
    update = {
        "split": "validation",
        "attack": _short(first.attack, min(wanted, available)),
        "simulate": _no_more_than(first.simulate, available),
    }
    if first.prepare.path is not None:  # processes elsewhere have another working directory
        update["prepare"] = first.prepare.model_copy(update={"path": str(Path(first.prepare.path).resolve())})
    compared = tuple(sorted({NO_NOISE, *uniform}))
    return Search(
        base=first.model_copy(update=update),
        groups=group_layers(layer_names(first, prepared), by),
        steps=tuple(sorted({*steps, *compared})),
        uniform=compared,
    )


def _short(attack: Attack, images: int) -> Attack:
    """The attacks that the worst case counts, and those that they wait for; no pictures."""
    needed = {name for name, one in attack.attacks.items() if one.in_worst_case}
    for spec in reversed(attack.specifications()):  # each comes after those that it names
        if spec.name in needed:
            needed |= set(spec.survivors_of)
    kept = {name: one for name, one in attack.attacks.items() if name in needed}
    if not kept:
        raise InputError("attack.attacks: no attack counts in the worst case; expected at least one")
    return attack.model_copy(update={"attacks": kept, "images": images, "examples": 0})


def _no_more_than(simulate: Simulate, images: int) -> Simulate:
    """The same on at most so many images, whole batches of them."""
    if simulate.images <= images:
        return simulate
    whole = images - images % simulate.batch_size
    if whole == 0:
        raise InputError(f"simulate.batch_size is {simulate.batch_size}; expected at most {images}")
    return simulate.model_copy(update={"images": whole})


def knows_the_defence(attack: Attack) -> bool:
    """Whether an attack of the worst case takes the rounding as the identity, or needs no gradient of it."""
    from nenni_core.attacks import attack_kind

    return any(
        spec.in_worst_case and (spec.gradient == "straight_through" or attack_kind(spec).without_gradients)
        for spec in attack.specifications()
    )


def group_layers(layers: Sequence[str], by: By) -> dict[str, tuple[str, ...]]:
    """Groups of layers, by name: each layer alone, or the parts that a network numbers at its top.

    >>> group_layers(["first", "s.0.0.conv1", "s.0.1.conv2", "s.1.0.conv1"], "stage")
    {'first': ('first',), 's.0': ('s.0.0.conv1', 's.0.1.conv2'), 's.1': ('s.1.0.conv1',)}
    """
    groups: dict[str, tuple[str, ...]] = {}
    for layer in layers:
        parts = layer.split(".")
        number = next((place for place, part in enumerate(parts) if part.isdigit()), None)
        stage = parts[0] if number is None else ".".join(parts[: number + 1])
        group = layer if by == "layer" else stage
        groups[group] = (*groups.get(group, ()), layer)
    return groups


def parse_steps(text: str) -> tuple[float, ...]:
    """Ratios separated by commas; `InputError` for anything else."""
    from pydantic import TypeAdapter, ValidationError

    try:
        found = TypeAdapter(tuple[Ratio, ...]).validate_python(text.split(","))
    except ValidationError:
        raise InputError(f"--steps is {text!r}; expected ratios in [0, 1] such as 0,0.5,0.9") from None
    return tuple(sorted({*found}))
