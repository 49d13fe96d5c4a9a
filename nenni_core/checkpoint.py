"""Checkpoints that are whole or absent, whatever moment the process is killed at.

One epoch (or what else work is counted in) is one safetensors file, the JSON of everything that is not a
tensor in its header, so that the two cannot get out of step. It is written under another name, flushed to the
disk and renamed. The last two epochs are kept: a file that turns out to be damaged costs one epoch.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from nenni_core.errors import InputError

KEPT = 2
SUFFIX = ".safetensors"


def portable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of `tensors` on the CPU, contiguous and sharing no memory."""
    return {
        name: torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor.detach())
        for name, tensor in tensors.items()
    }


def digest(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """SHA-256, in hex, of the names, types, shapes and bytes of `tensors` and of `text`."""
    total = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def write_checkpoint(
    directory: Path, epoch: int, tensors: Mapping[str, Tensor], record: Mapping[str, Any]
) -> Path:
    """Write the checkpoint of `epoch` and drop those older than the one before it.

    A kill at any moment leaves either this checkpoint whole or the one before it untouched. `record` is
    JSON; floats survive exactly. Raises `OSError` when the disk is full.
    """
    directory.mkdir(parents=True, exist_ok=True)
    copies, text = portable(tensors), json.dumps(record)
    path = directory / f"epoch-{epoch:05d}{SUFFIX}"
    partial = path.with_suffix(".partial")
    # safetensors' own writing of a file tells of a full disk by an error that is no `OSError`
    partial.write_bytes(save(copies, metadata={"record": text, "digest": digest(copies, text)}))
    _flush(partial)
    os.replace(partial, path)
    _flush(directory)
    for old in _paths(directory)[KEPT:]:
        old.unlink()
    for leftover in directory.glob("epoch-*.partial"):
        leftover.unlink()
    return path


def latest_checkpoint(directory: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The tensors and the record of the newest whole checkpoint; None if there is none.

    Warns of each newer file that is damaged, and passes over it.
    """
    for path in _paths(directory):
        try:
            return _read(path)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            warnings.warn(
                f"checkpoint {path.name} is damaged ({error}); going on from the one before it, "
                "or from the start if there is none",
                stacklevel=3,
            )
    return None


def refuse_another_run(found: Mapping[str, object], expected: Mapping[str, object], place: str) -> None:
    """Raise `InputError` naming what differs between a checkpoint's run and the one asked for."""
    differing = [name for name in expected if found.get(name) != expected[name]]
    if differing:
        changes = ", ".join(
            f"{name} was {_short(found.get(name))}, is {_short(expected[name])}" for name in differing
        )
        raise InputError(
            f"checkpoint directory {place!r} belongs to another run ({changes}); "
            "expected the same run, an empty directory or a new one"
        )


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if digest(tensors, metadata["record"]) != metadata["digest"]:
        raise ValueError("its content does not match its checksum")
    return tensors, json.loads(metadata["record"])


def _paths(directory: Path) -> list[Path]:
    """Checkpoints, newest first."""
    return sorted(directory.glob(f"epoch-*{SUFFIX}"), reverse=True)


def _flush(path: Path) -> None:
    """Wait until a file, or the entries of a directory, have reached the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 24 else text[:20] + "...'" if text.startswith("'") else text[:20] + "..."
