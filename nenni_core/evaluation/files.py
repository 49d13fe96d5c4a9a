"""Finished parts of an evaluation on disk, so that a killed one continues where it was."""

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from nenni_core.inject import injected_layers

Part = tuple[dict[str, Tensor], dict[str, Any]]
"""Tensors, and numbers of plain JSON types."""

_LAYOUT = "1"  # raise when the meaning of a stored part changes


def _hash_tensor(digest: Any, name: str, tensor: Tensor) -> None:
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
    digest.update(flat.numpy())


def evaluation_guard(model: nn.Module, images: Tensor, labels: Tensor, settings: dict[str, Any]) -> str:
    """A hash of all that a stored part depends on: weights and structure, data, settings, PyTorch version.

    Structure is what the modules print of themselves, and how noise is injected.
    """
    digest = hashlib.sha256()
    structure = re.sub(r"0x[0-9a-fA-F]+", "", str(model))  # addresses differ from one process to the next
    injected = {name: repr(layer.injection) for name, layer in injected_layers(model).items()}
    parts = [_LAYOUT, str(torch.__version__), structure, injected, settings]
    digest.update(json.dumps(parts, sort_keys=True).encode())
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        _hash_tensor(digest, name, tensor)
    _hash_tensor(digest, "images", images)
    _hash_tensor(digest, "labels", labels)
    return digest.hexdigest()


def save_part(
    folder: Path | None, name: str, guard: str, tensors: dict[str, Tensor], numbers: dict[str, Any]
) -> None:
    """Store a part as one file that is either there and whole or not there; nothing if `folder` is None."""
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{name}.{os.getpid()}.part"
    content = save(
        {key: tensor.contiguous() for key, tensor in tensors.items()},
        metadata={"guard": guard, "numbers": json.dumps(numbers)},
    )
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / f"{name}.safetensors")


def load_part(folder: Path | None, name: str, guard: str) -> Part | None:
    """The part stored under the same guard; None if there is none, it is of something else, or damaged."""
    path = None if folder is None else folder / f"{name}.safetensors"
    if path is None or not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("guard") != guard:
                return None
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    except SafetensorError:
        return None
    return tensors, json.loads(metadata["numbers"])
