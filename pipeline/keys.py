"""Content keys: what a stage's output is a function of, as one hash.

Two experiments that agree on everything upstream of a stage have the same key there, so they share the
output, within a set and across sets.
"""

import hashlib
from collections.abc import Hashable, Mapping
from functools import cache
from typing import Any

from nenni_core.chain.versions import VERSIONS as CHAIN_VERSIONS
from nenni_core.files import canonical_json
from pipeline.config import Attack, AttackRun, Section, Simulate, SimulateRun
from pipeline.defense_choice import DefenseChoice
from pipeline.experiment import Experiment

VERSIONS = {**CHAIN_VERSIONS, "defend": 1, "simulate": 2}
"""Raised by hand when a change of the code changes a stage's output, or what its entry records."""


def upstream(stage: str, experiment: Experiment) -> tuple[str, ...]:
    """The stages whose outputs `stage` reads in this experiment."""
    if stage == "distill":
        return "prepare", experiment.teacher
    if stage == "attack" and experiment.finetune is None:
        return "prepare", experiment.teacher
    if stage == "attack" and experiment.attack.needs_surrogate:
        return "prepare", experiment.teacher, "finetune"
    return _UPSTREAM[stage]


_UPSTREAM = {
    "prepare": (),
    "pretrain": ("prepare",),
    "defend": ("prepare", "pretrain"),
    "finetune": ("prepare", "distill"),
    "attack": ("prepare", "finetune"),
    "simulate": ("prepare", "finetune"),
}
"""What stages read where it is not another thing for another experiment."""


def stages_before(stage: str, experiment: Experiment) -> tuple[str, ...]:
    """All stages that `stage` rests on, and itself, in the order in which data flows."""
    needed = {stage}
    for name in reversed(experiment.stages):
        if name in needed:
            needed |= set(upstream(name, experiment))
    return tuple(name for name in experiment.stages if name in needed)


def stage_section(stage: str, experiment: Experiment) -> Section:
    """The configuration that a stage's `run` gets.

    An attack on the dense teacher, or one that transfers from it, is also told which checkpoint that is; the
    simulation what its designs and its technology are.
    """
    if stage in ("pretrain", "defend"):
        return experiment.training(stage)
    section = own_section(stage, experiment)
    if isinstance(section, Attack):
        reads_teacher = experiment.finetune is None or section.needs_surrogate
        checkpoint = experiment.distill.checkpoint if reads_teacher else None
        # the section was validated
        return AttackRun.model_construct(**dict(section), checkpoint=checkpoint, split=experiment.split)
    if isinstance(section, Simulate):
        hardware = tuple(_hardware(core) for core in section.cores)
        return SimulateRun(
            **dict(section),
            hardware=hardware,
            technology_digest=_technology_digest(section.technology),
            split=experiment.split,
        )
    return section


@cache
def _hardware(core: str) -> dict[str, Any]:
    from hwsim.hardware import load_hardware

    return load_hardware(core).model_dump()


@cache
def _technology_digest(name: str) -> str:
    from hwsim.technology import load_technology

    return load_technology(name).digest


def stage_config(stage: str, experiment: Experiment) -> dict[str, Any]:
    """`stage_section` as plain JSON values, as it enters the key: only what the stage reads."""
    config: dict[str, Any] = stage_section(stage, experiment).model_dump(mode="json")
    if stage == "attack":
        config["attacks"] = {name: _read_by(attack) for name, attack in config["attacks"].items()}
    unread = _unread(stage, config)
    if stage == "attack" and not experiment.is_random:
        unread |= {"judge_draws"}
    if "defense" in config:
        dropped = DefenseChoice(**config["defense"]).defense().unread
        config["defense"] = {name: v for name, v in config["defense"].items() if name not in dropped}
    return {name: value for name, value in config.items() if name not in unread}


def _read_by(attack: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of one attack that it reads."""
    from nenni_core.attacks import fields_read

    fields = {"kind", *fields_read(attack["kind"], attack)}
    return {name: value for name, value in attack.items() if name in fields}


def _unread(stage: str, config: Mapping[str, Any]) -> set[str]:
    """Fields without a meaning beside the values of the others: changing them computes nothing again."""
    unread: set[str] = set()
    if stage == "prepare":
        unread |= {"path"}  # where an archive lies does not change what is in it; the fingerprint says that
    if stage == "distill":
        closed_form = config["solver"] == "least_squares"
        unread |= {"epochs", "learning_rate", "momentum"} if closed_form else {"ridge"}
        if config["randomize"] != "bank":
            unread |= {"bank_size"}
    if stage in ("pretrain", "defend", "finetune"):
        if config["schedule"] != "step":
            unread |= {"milestones", "decay"}
        # eps and step_size are those of the validation too
        minimised = {"kind": config["objective"]} if stage == "finetune" else config["defense"]
        unread |= DefenseChoice(**minimised).defense().unread & {"steps"}
    if stage == "defend":
        unread |= {"model", "epochs", "learning_rate"}  # the trained network's, and the defence's own
        if config["defense"]["epochs"] == 0:  # nothing is trained
            unread |= config.keys() - {"defense"}
    if stage == "finetune":
        unread |= {"layer_ratios_name"}  # equal ratios are one network, whatever they are called
        if config["layer_ratios"] is None:
            unread |= {"layer_ratios"}
    if stage == "attack" and config["ensemble"] == 1:
        unread |= {"ensemble"}
    if stage in ("attack", "simulate") and config["split"] == "test":
        unread |= {"split"}
    return unread


def stage_seed(stage: str, experiment: Experiment) -> int:
    """The seed of a stage. The data split has its own, so that all seeds of a study share one split."""
    return experiment.prepare.split_seed if stage == "prepare" else experiment.seed


class Configurations:
    """`stage_config` of many experiments, worked out once for each section that they share as one object."""

    def __init__(self) -> None:
        self._found: dict[tuple[Hashable, ...], tuple[Section, dict[str, Any]]] = {}

    def of(self, stage: str, experiment: Experiment) -> dict[str, Any]:
        """`stage_config`; not to be changed."""
        section = own_section(stage, experiment)
        name: tuple[Hashable, ...] = stage, id(section)
        if stage == "attack":  # it says more about some networks than about others
            name += experiment.is_random, experiment.finetune is None, experiment.distill.checkpoint
        if name not in self._found:
            # the section is kept, so that no other one gets its `id`
            self._found[name] = section, stage_config(stage, experiment)
        return self._found[name][1]


def own_section(stage: str, experiment: Experiment) -> Section:
    """The section of the experiment that a stage's configuration is made from."""
    section = getattr(experiment, "pretrain" if stage == "defend" else stage)
    assert isinstance(section, Section), f"{experiment.label} has no stage {stage}"
    return section


def stage_keys(
    experiment: Experiment, fingerprint: str, configurations: Configurations | None = None
) -> dict[str, str]:
    """The key of every stage of an experiment, 64 hexadecimal digits each.

    `fingerprint` identifies the content of the data set (`nenni_core.data.fingerprint`); `configurations`
    saves time where there are many experiments.
    """
    configurations = configurations or Configurations()
    keys: dict[str, str] = {}
    for stage in experiment.stages:
        content = {
            "stage": stage,
            "version": VERSIONS[stage],
            "config": configurations.of(stage, experiment),
            "seed": stage_seed(stage, experiment),
            "upstream": {name: keys[name] for name in upstream(stage, experiment)},
            "data": fingerprint,
        }
        keys[stage] = hashlib.sha256(canonical_json(content).encode()).hexdigest()
    return keys
