"""From a parameter file to its experiments.

The file describes a small set: one data set, and every combination of the values that are lists in it:
`pretrain.defense`, `distill.randomize`, `finetune.ratio`, `.pattern`, `.layer_ratios` (by name), `.target`
and `.objective`, `attack.ensemble`. Every experiment that comes out is complete, frozen and free of lists.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import BeforeValidator, Field, model_validator

from nenni_core.errors import InputError, unknown_choice
from pipeline.attack_grid import expanded_attacks
from pipeline.config import (
    Attack,
    Distill,
    FineTune,
    FineTuning,
    LayerRatios,
    Objective,
    Pattern,
    Prepare,
    Pretrain,
    Randomize,
    Ratio,
    Section,
    Simulate,
    SplitName,
    Target,
    Tracking,
    VariantName,
)
from pipeline.defense_choice import DefenseChoice
from pipeline.values import Whole, as_list, read_yaml

Choice = TypeVar("Choice")

STAGES = ("prepare", "pretrain", "defend", "distill", "finetune", "attack", "simulate")
"""The stages in the order in which data flows through them; the last two both read `finetune`."""


class PretrainSet(Pretrain):
    """The section `pretrain` of a parameter file: one or several defences."""

    defense: Annotated[tuple[DefenseChoice, ...], BeforeValidator(as_list)] = Field(  # type: ignore[assignment]
        default_factory=lambda: (DefenseChoice(),),
        description="what makes the networks robust, one or several: a name, or {kind: name, ...}",
    )

    @model_validator(mode="after")
    def _buildable(self) -> Self:
        not_empty("defense", self.defense)
        self.variants()
        return self

    def variants(self) -> list[Pretrain]:
        """One `Pretrain` per defence, in the order written, duplicates dropped."""
        shared = {name: getattr(self, name) for name in Pretrain.model_fields}
        return _distinct(Pretrain(**(shared | {"defense": defense})) for defense in self.defense)


class DistillSet(Distill):
    """The section `distill` of a parameter file."""

    randomize: Annotated[tuple[Randomize, ...], BeforeValidator(as_list)] = Field(  # type: ignore[assignment]
        default=("fixed",), description="how the noise varies between forward passes"
    )

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        not_empty("randomize", self.randomize)
        return self

    def variants(self) -> list[Distill]:
        """One `Distill` per way of drawing the noise, in the order written, duplicates dropped."""
        shared = {name: getattr(self, name) for name in Distill.model_fields}
        return _distinct(Distill(**(shared | {"randomize": value})) for value in self.randomize)


class FineTuneSet(FineTuning):
    """The section `finetune` of a parameter file: what varies is a list, or one value."""

    dense: bool = Field(default=True, description="also attack the teacher as it is, without noise")
    defenses: Annotated[tuple[str, ...] | None, BeforeValidator(lambda v: v if v is None else as_list(v))] = (
        Field(default=None, description="kinds of the defences whose networks get the noise; null: all")
    )
    ratio: Annotated[tuple[Ratio, ...], BeforeValidator(as_list)] = Field(
        default=(), description="shares of the neurons that get noise, one variant each"
    )
    pattern: Annotated[tuple[Pattern, ...], BeforeValidator(as_list)] = Field(
        default=(), description='"N:M" patterns, one variant each'
    )
    layer_ratios: Annotated[
        dict[VariantName, LayerRatios], BeforeValidator(lambda v: {} if v is None else v)
    ] = Field(
        default_factory=dict, description="a ratio for each layer by its name, one variant for each name"
    )
    target: Annotated[tuple[Target, ...], BeforeValidator(as_list)] = Field(  # type: ignore[assignment]
        default=("non_essential",),
        description="which neurons get the noise (essential: ablation; random: control)",
    )
    objective: Annotated[tuple[Objective, ...], BeforeValidator(as_list)] = Field(
        default=("adversarial",),
        description="fine-tuning losses; every variant is made with each",
    )

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        if self.pattern and self.selection == "threshold":
            raise InputError("selection 'threshold' goes with ratios; patterns choose within groups")
        not_empty("target", self.target)
        if not self.objective:
            raise InputError("objective: expected at least one of clean, adversarial")
        if not (self.dense or self.ratio or self.pattern or self.layer_ratios):
            raise InputError(
                "nothing to do: `dense` is false and none of ratio, pattern and layer_ratios has a value"
            )
        self.variants()
        return self

    def variants(self) -> list[FineTune]:
        """One `FineTune` per rule (ratio, pattern or layer ratios), target and objective, as written.

        Duplicates are dropped; of layer ratios that are equal the first name stays.
        """
        shared = {name: getattr(self, name) for name in FineTuning.model_fields}
        rules: list[dict[str, Any]] = [{"ratio": ratio} for ratio in self.ratio]
        rules += [{"pattern": pattern} for pattern in self.pattern]
        all_ratios = list(self.layer_ratios.values())
        rules += [
            {"layer_ratios": ratios, "layer_ratios_name": name}
            for place, (name, ratios) in enumerate(self.layer_ratios.items())
            if ratios not in all_ratios[:place]
        ]
        return _distinct(
            FineTune(**(shared | rule | {"target": target, "objective": objective}))
            for rule in rules
            for target in self.target
            for objective in self.objective
        )


class AttackSet(Attack):
    """The section `attack` of a parameter file.

    A list in an attack stands for one attack with each value, and with several lists for every combination;
    the name says where the values go: `pgd{steps}_eps{eps}: {kind: pgd, eps: [8/255], steps: [10, 20]}`.
    """

    ensemble: Annotated[tuple[Annotated[Whole, Field(ge=1)], ...], BeforeValidator(as_list)] = Field(  # type: ignore[assignment]
        default=(1,),
        description="random networks: passes whose mean probability is the prediction",
    )

    @model_validator(mode="before")
    @classmethod
    def _one_by_one(cls, value: Any) -> Any:
        attacks = value.get("attacks") if isinstance(value, dict) else None
        return value | {"attacks": expanded_attacks(attacks)} if isinstance(attacks, dict) else value

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        not_empty("ensemble", self.ensemble)
        return self

    def variants(self, *, random: bool) -> list[Attack]:
        """One `Attack` per number of passes; a deterministic network has one pass only."""
        shared = {name: getattr(self, name) for name in Attack.model_fields}
        return _distinct(
            Attack(**(shared | {"ensemble": passes})) for passes in (self.ensemble if random else (1,))
        )


def not_empty(name: str, values: tuple[Any, ...]) -> None:
    """Raise `InputError` for an empty list, after its elements have been looked at."""
    if not values:
        raise InputError(f"{name}: expected at least one value")


def _distinct(choices: Iterable[Choice]) -> list[Choice]:
    """The choices in their order, each once."""
    found: list[Choice] = []
    for choice in choices:
        if choice not in found:
            found.append(choice)
    return found


class Seeded(Section):
    """What has a seed."""

    seed: Whole = Field(default=0, ge=0, description="of everything random but the data split")


class Experiment(Seeded):
    """One complete experiment. `finetune` is None for the dense teacher."""

    prepare: Prepare
    pretrain: Pretrain
    distill: Distill
    finetune: FineTune | None
    attack: Attack
    simulate: Simulate | None = None
    split: SplitName = Field(
        default="test",
        description="images that the network is attacked and simulated on; validation for a search only: "
        "parameter files cannot say so, what is reported is of test images",
    )

    @property
    def teacher(self) -> str:
        """The stage whose output is the dense network."""
        return "defend" if self.pretrain.defense.defense().starts_trained else "pretrain"

    def training(self, stage: str) -> Pretrain:
        """How the network that `stage` works on was trained; `pretrain` trains what `defend` starts from."""
        return self.pretrain.base() if stage == "pretrain" else self.pretrain

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that this experiment passes through."""
        unused = {"pretrain": {"defend"}, "defend": set[str]()}[self.teacher]
        if self.finetune is None:
            unused |= {"distill", "finetune", "simulate"}
        if self.simulate is None:
            unused |= {"simulate"}
        return tuple(stage for stage in STAGES if stage not in unused)

    @property
    def is_random(self) -> bool:
        """Whether two forward passes of the network under attack differ."""
        noise = self.finetune is not None and (
            self.distill.randomize != "fixed" or self.finetune.target == "random"
        )
        return noise or self.pretrain.defense.is_random

    @property
    def label(self) -> str:
        """A short name that is unique within a set: `dense`, `ratio-0.9-adversarial`, `trades`.

        It names the defence that the network was trained by unless that is plain adversarial training, and
        where the noise goes and how it is drawn unless that is the usual.
        """
        defense = self.pretrain.defense.label
        parts = [] if defense == "adversarial" else [defense]
        if (rule := self.finetune) is not None:
            if rule.ratio is not None:
                parts.append(f"ratio-{rule.ratio:g}")
            else:
                parts.append(
                    f"pattern-{rule.pattern}" if rule.pattern else f"layers-{rule.layer_ratios_name}"
                )
            parts += [rule.target.replace("_", "-")] if rule.target != "non_essential" else []
            parts += [self.distill.randomize.replace("_", "-")] if self.distill.randomize != "fixed" else []
            parts.append(rule.objective)
        if self.attack.ensemble > 1:
            parts.append(f"ensemble-{self.attack.ensemble}")
        if self.split != "test":
            parts.append(self.split)
        return "-".join(parts) or "dense"


class ExperimentSet(Seeded):
    """The content of a parameter file."""

    store: str | None = Field(
        default=None,
        min_length=1,
        description="where finished stages are kept, unless --store or NENNI_STORE say it; null: store/",
    )
    tracking: Tracking = Field(default_factory=lambda: Tracking(), description="how runs are recorded")
    prepare: Prepare
    pretrain: PretrainSet
    distill: DistillSet
    finetune: FineTuneSet
    attack: AttackSet
    simulate: Simulate | None = Field(
        default=None, description="the accelerator on the networks with noise; null: it is not simulated"
    )

    @model_validator(mode="after")
    def _distinct_labels(self) -> Self:
        for kind in self.finetune.defenses or ():
            known = [defense.kind for defense in self.pretrain.defense]
            if kind not in known:
                raise unknown_choice("defence in finetune.defenses", kind, known)
        for label, count in Counter(experiment.label for experiment in self.experiments()).items():
            if count > 1:
                raise InputError(f"two different variants would both be called {label!r}")
        return self

    def experiments(self) -> list[Experiment]:
        """The experiments of the set, the dense network of each defence before those with noise.

        Experiments that agree on a section share it: it is one object.
        """
        distill = self.distill.variants()
        dense: list[tuple[Distill, FineTune | None]] = [(distill[0], None)] if self.finetune.dense else []
        noisy = [(noise, rule) for noise in distill for rule in self.finetune.variants()]
        attacks = {random: self.attack.variants(random=random) for random in (False, True)}
        return [
            experiment
            for pretrain in self.pretrain.variants()
            for noise, rule in dense + (noisy if self._gets_noise(pretrain) else [])
            for experiment in self._of(pretrain, noise, rule, attacks)
        ]

    def _gets_noise(self, pretrain: Pretrain) -> bool:
        return self.finetune.defenses is None or pretrain.defense.kind in self.finetune.defenses

    def _of(
        self,
        pretrain: Pretrain,
        distill: Distill,
        rule: FineTune | None,
        attacks: Mapping[bool, list[Attack]],
    ) -> Iterator[Experiment]:
        """The experiments on one network; `attacks` are those on random networks, and on others."""
        # its parts have been validated
        single = Experiment.model_construct(
            seed=self.seed,
            prepare=self.prepare,
            pretrain=pretrain,
            distill=distill,
            finetune=rule,
            attack=attacks[False][0],
            simulate=self.simulate,
        )
        for attack in attacks[single.is_random]:
            yield single.model_copy(update={"attack": attack})


def load_parameters(path: Path) -> ExperimentSet:
    """The experiment set in a parameter file.

    Raises `InputError` if the file cannot be read, `pydantic.ValidationError` if a value in it is wrong
    (`pipeline.problems.describe` turns that into one line per problem).
    """
    return ExperimentSet.model_validate(read_yaml(path))
