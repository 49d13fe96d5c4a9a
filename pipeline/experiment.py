"""From a parameter file to its experiments.

The file describes a small set: one data set, one teacher, one distillation, and as many variants as
`finetune.ratio`, `finetune.pattern` and `finetune.objective` list. Every experiment that comes out is
complete, frozen and free of lists.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from nenni_core.errors import InputError
from pipeline.config import (
    Attack,
    Distill,
    FineTune,
    FineTuning,
    Objective,
    Pattern,
    Prepare,
    Pretrain,
    Ratio,
    Section,
    Tracking,
)
from pipeline.values import Whole, as_list, read_yaml

STAGES = ("prepare", "pretrain", "distill", "finetune", "attack")
"""The stages in the order in which data flows through them."""


class FineTuneSet(FineTuning):
    """The section `finetune` of a parameter file: what varies is a list, or one value."""

    dense: bool = Field(default=True, description="also attack the teacher as it is, without noise")
    ratio: Annotated[tuple[Ratio, ...], BeforeValidator(as_list)] = Field(
        default=(), description="shares of the neurons that get noise, one variant each"
    )
    pattern: Annotated[tuple[Pattern, ...], BeforeValidator(as_list)] = Field(
        default=(), description='"N:M" patterns, one variant each'
    )
    objective: Annotated[tuple[Objective, ...], BeforeValidator(as_list)] = Field(
        default=("adversarial",),
        description="fine-tuning losses; every variant is made with each",
    )

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        if self.pattern and self.selection == "threshold":
            raise InputError("selection 'threshold' goes with ratios; patterns choose within groups")
        if not self.objective:
            raise InputError("objective: expected at least one of clean, adversarial")
        if not (self.dense or self.ratio or self.pattern):
            raise InputError("nothing to do: `dense` is false and neither `ratio` nor `pattern` has a value")
        return self

    def variants(self) -> Iterator[FineTune]:
        """One `FineTune` per ratio or pattern and objective, in the order written, duplicates dropped."""
        shared = {name: getattr(self, name) for name in FineTuning.model_fields}
        rules: list[dict[str, Any]] = [{"ratio": ratio} for ratio in self.ratio]
        rules += [{"pattern": pattern} for pattern in self.pattern]
        seen = set()
        for rule in rules:
            for objective in self.objective:
                variant = FineTune(**shared, **rule, objective=objective)
                if variant not in seen:
                    seen.add(variant)
                    yield variant


class Experiment(Section):
    """One complete experiment. `finetune` is None for the dense teacher."""

    seed: Whole = Field(default=0, ge=0, description="of everything random but the data split")
    prepare: Prepare
    pretrain: Pretrain
    distill: Distill
    finetune: FineTune | None
    attack: Attack

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that this experiment passes through."""
        return STAGES if self.finetune else ("prepare", "pretrain", "attack")

    @property
    def label(self) -> str:
        """A short name that is unique within a set: `dense`, `ratio-0.9-adversarial`, `pattern-4:8-clean`."""
        if self.finetune is None:
            return "dense"
        rule = self.finetune
        where = f"pattern-{rule.pattern}" if rule.ratio is None else f"ratio-{rule.ratio:g}"
        return f"{where}-{rule.objective}"


class ExperimentSet(Section):
    """The content of a parameter file."""

    seed: Whole = Field(default=0, ge=0, description="of everything random but the data split")
    tracking: Tracking = Field(default_factory=lambda: Tracking(), description="how runs are recorded")
    prepare: Prepare
    pretrain: Pretrain
    distill: Distill
    finetune: FineTuneSet
    attack: Attack

    @model_validator(mode="after")
    def _distinct_labels(self) -> Self:
        labels = [experiment.label for experiment in self.experiments()]
        for label in labels:
            if labels.count(label) > 1:
                raise InputError(f"two different variants would both be called {label!r}")
        return self

    def experiments(self) -> list[Experiment]:
        """The experiments of the set, the dense teacher first."""
        variants: list[FineTune | None] = [None] if self.finetune.dense else []
        variants += list(self.finetune.variants())
        return [
            Experiment(
                seed=self.seed,
                prepare=self.prepare,
                pretrain=self.pretrain,
                distill=self.distill,
                finetune=variant,
                attack=self.attack,
            )
            for variant in variants
        ]


def load_parameters(path: Path) -> ExperimentSet:
    """The experiment set in a parameter file.

    Raises `InputError` if the file cannot be read, `pydantic.ValidationError` if a value in it is wrong
    (`pipeline.problems.describe` turns that into one line per problem).
    """
    return ExperimentSet.model_validate(read_yaml(path))
