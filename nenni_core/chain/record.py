"""A finished stage as a plain folder that says what it is of: how a chain is kept where there is no store.

`<root>/<stage>-<identity>/` holds what the stage wrote and `record.json`. `python -m pipeline.store import`
makes entries of a store of them.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save

from nenni_core.chain.runtime import SCRATCH
from nenni_core.chain.speed import TIMING
from nenni_core.errors import InputError
from nenni_core.evaluation import Evaluation, Examples
from nenni_core.files import canonical_json, read_json, sha256_of, write_atomically, write_json

RECORD = "record.json"
EVALUATION = "evaluation.safetensors"
"""What an attack found by image, and a few of its images: a table and a picture are made of it."""
SHOWN = 12
"""Digits of an identity in the name of a folder."""


def identity(
    stage: str, settings: object, seed: int, upstream: Mapping[str, str], data_fingerprint: str
) -> str:
    """SHA-256 hex of all that a stage's result is a function of.

    `settings` is the stage's dataclass; `upstream` has the identities of the stages that it reads, by stage.
    """
    content = {
        "stage": stage,
        "settings": plain(settings),
        "seed": seed,
        "upstream": dict(upstream),
        "data": data_fingerprint,
    }
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def plain(settings: Any) -> dict[str, Any]:
    """A dataclass as JSON has it: tuples are lists."""
    return json.loads(json.dumps(asdict(settings), allow_nan=False))


def folder_of(root: Path, stage: str, stage_identity: str) -> Path:
    """Where the finished stage is, or would be."""
    return root / f"{stage}-{stage_identity[:SHOWN]}"


@dataclass(frozen=True, kw_only=True)
class Record:
    """What one finished stage is a function of, where it comes from, and what is in its folder."""

    stage: str
    version: int
    """Of the stage (`nenni_core.chain.versions`)."""
    identity: str
    settings: dict[str, Any]
    seed: int
    upstream: dict[str, str]
    """Identities of the stages that it read."""
    upstream_digests: dict[str, str]
    """Their digests: what was read."""
    data_fingerprint: str
    metrics: dict[str, float | int]
    files: dict[str, str]
    """SHA-256 of each file."""
    git_commit: str
    git_dirty: bool
    code: str
    """Digest of the code that began it."""
    versions: dict[str, str]
    device: str
    """Kind of device."""
    device_name: str
    threads: int
    seconds: float
    """Wall time of all calls that worked on it."""
    resumed: bool
    checksum: str = ""
    """SHA-256 of the canonical JSON of all other fields."""

    @property
    def digest(self) -> str:
        """SHA-256 over names and contents of the files; equal for two equal computations."""
        contents = {name: found for name, found in self.files.items() if name != TIMING}
        return hashlib.sha256(canonical_json(contents).encode()).hexdigest()

    def own_checksum(self) -> str:
        """What `checksum` has to be."""
        values = asdict(self)
        del values["checksum"]
        return hashlib.sha256(canonical_json(values).encode()).hexdigest()


def file_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a result, by its path in the folder."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in found}
    return {
        name: sha256_of(path)
        for name, path in names.items()
        if name != RECORD and not name.startswith(f"{SCRATCH}/") and not path.name.startswith(".")
    }


def write_record(folder: Path, record: Record) -> None:
    """Write `record.json` with its checksum."""
    write_json(folder / RECORD, asdict(record) | {"checksum": record.own_checksum()})


def read_record(folder: Path) -> Record:
    """The record of a finished stage, every byte of its files checked.

    Raises `InputError` if there is none, or if the files are not those that were written.
    """
    try:
        values = read_json(folder / RECORD)
        known = {field.name for field in fields(Record)}
        record = Record(**{name: values[name] for name in known})
        intact = values.keys() == known and record.checksum == record.own_checksum()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{str(folder / RECORD)!r} cannot be read: {error}; expected a record") from None
    if not intact:
        raise InputError(f"{str(folder / RECORD)!r} is not what was written; expected it unchanged")
    found = file_digests(folder)
    for name in sorted(found.keys() | record.files.keys()):
        if found.get(name) != record.files.get(name):
            state = "missing" if name not in found else "not what was written"
            raise InputError(f"{str(folder / name)!r} is {state}; expected the files of {RECORD}")
    return record


def save_evaluation(folder: Path, evaluation: Evaluation) -> None:
    """Write what `load_evaluation` reads."""
    examples = evaluation.examples
    tensors = {f"records/{name}": torch.from_numpy(v) for name, v in evaluation.records().items()}
    tensors |= {f"examples/{name}": getattr(examples, name) for name in ("index", "label", "clean")}
    for group in ("adversarial", "predicted"):
        tensors |= {f"examples/{group}/{name}": v for name, v in getattr(examples, group).items()}
    # the file sorts tensors by name; of several entries of its metadata the order would be arbitrary
    order = json.dumps({"columns": list(evaluation.records()), "attacks": list(examples.adversarial)})
    copies = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    write_atomically(folder / EVALUATION, save(copies, metadata={"order": order}))


def load_evaluation(folder: Path) -> tuple[dict[str, np.ndarray], Examples]:
    """`Evaluation.records` and the examples of an attack's folder."""
    with safe_open(folder / EVALUATION, framework="pt") as file:
        order = json.loads(file.metadata()["order"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    records = {name: tensors[f"records/{name}"].numpy() for name in order["columns"]}
    examples = Examples(
        **{name: tensors[f"examples/{name}"] for name in ("index", "label", "clean")},
        adversarial={name: tensors[f"examples/adversarial/{name}"] for name in order["attacks"]},
        predicted={name: tensors[f"examples/predicted/{name}"] for name in order["attacks"]},
    )
    return records, examples
