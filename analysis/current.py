"""What the parameter file asks for, to be compared with what is tracked."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.runs import COMMAND
from nenni_core.errors import InputError


@dataclass(frozen=True, kw_only=True)
class CurrentSet:
    """The set of experiments in a parameter file.

    `networks` are identities as `analysis.tables.robustness.build_table` expects them, `attacks` the names
    of the columns; `key` is the tag `experiment_key` of its parent run, None where the data are not at hand
    here.
    """

    experiment: str
    command: str  # computes and tracks the set
    sync: str  # tracks what is computed already
    key: str | None
    networks: tuple[Mapping[str, Any], ...]
    attacks: tuple[str, ...]


def read_current_set(params: Path) -> CurrentSet:
    """The set in the parameter file `params`.

    Raises `InputError` if the file cannot be read, `pydantic.ValidationError` if a value in it is wrong.
    """
    from pipeline.experiment import load_parameters
    from pipeline.runner import plan
    from pipeline.tracking import experiment_key

    parameters = load_parameters(params)
    experiments = parameters.experiments()
    try:
        key = experiment_key(plan(experiments))
    except InputError:
        key = None
    networks = []
    for experiment in experiments:
        network: dict[str, Any] = {
            "model": experiment.pretrain.model,
            "dataset": experiment.prepare.dataset,
            "seed": experiment.seed,
            "defence": "dense",
        }
        if (noise := experiment.finetune) is not None:
            network |= {
                "defence": "noise_injection",
                "ratio": noise.ratio,
                "pattern": noise.pattern,
                "objective": noise.objective,
                "target": noise.target,
                "selection": noise.selection,
                "score": noise.score,
                "randomize": experiment.distill.randomize,
                "bits": experiment.distill.bits,
                "projection_ratio": experiment.distill.projection_ratio,
            }
        networks.append(network)
    return CurrentSet(
        experiment=parameters.tracking.experiment,
        command=_command(params),
        sync=f"python -m pipeline.tracking sync --params {params}",
        key=key,
        networks=tuple(networks),
        attacks=tuple(parameters.attack.attacks),
    )


def _command(params: Path) -> str:
    """What computes the set of a parameter file: `dvc repro`, if the `dvc.yaml` beside it is about it."""
    pipeline = Path(os.path.relpath(params.resolve().parent)) / "dvc.yaml"
    if pipeline.is_file() and f"--params {params}" in pipeline.read_text(encoding="utf-8"):
        return COMMAND if pipeline.parent == Path() else f"{COMMAND} {pipeline}"
    return f"python -m pipeline.stages.attack --params {params}"
