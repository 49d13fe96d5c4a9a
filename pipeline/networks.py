"""A network that the user names: one of ours, an entry of the store, or a callable of the user's own.

Weights are read from safetensors files; nothing is unpickled. Code of the user's is run only where the user
names it, by an import path.
"""

import importlib
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from nenni_core.attacks.adapter import check_logits_shape
from nenni_core.attacks.untouched import frozen_for_evaluation
from nenni_core.chain.artifacts import ARCHITECTURE, MODEL, ModelSpec, load_spec
from nenni_core.errors import InputError, unknown_choice
from nenni_core.evaluation import image_layout
from nenni_core.files import sha256_of
from nenni_core.models import MODELS, build_model
from pipeline.problems import shortened
from pipeline.store import MANIFEST, CorruptEntryError, read_entry

WEIGHTS = (MODEL, "best.safetensors")
"""Which file of a folder is meant when only the folder is named, in order of preference."""
NOTHING = "-"
"""Stands for weights on a command line where there are none."""
SHOWN = 3
"""How many wrong names of a state dict are written out."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """What the user named: found, but not built yet."""

    name: str
    """Key of `MODELS`, an import path, or the name in the description beside the weights."""
    build: Callable[[tuple[int, int, int], int], nn.Module]
    """From (channels, height, width) of the images and the number of classes."""
    weights: Path | None
    description: ModelSpec | None = None
    """What lies beside the weights, where that decides; normalisation and noise included."""

    def load(self, image_shape: tuple[int, int, int], num_classes: int, device: str) -> nn.Module:
        """The network with its weights on `device`, in evaluation mode.

        Raises `InputError` if it cannot be built for such images, or the weights are not of this network.
        """
        model = self.build(image_shape, num_classes)
        if self.weights is not None:
            _load_weights(model, self.weights, self.name)
        return model.to(device).eval()

    def summary(self) -> dict[str, Any]:
        """What it is, as plain JSON types; the weights by their SHA-256."""
        return {
            "model": self.name,
            "weights": None if self.weights is None else str(self.weights),
            "weights_sha256": None if self.weights is None else sha256_of(self.weights),
            "description": None if self.description is None else self.description.to_json(),
        }


def find_network(weights: str | None, model: str | None) -> Network:
    """What the two arguments of a command line name.

    Args:
        weights: a safetensors file or the folder of a store's entry; None or "-" for a callable whose network
            is ready.
        model: key of `MODELS`, or "package.module:callable"; None if it is described beside the weights.

    Raises:
        InputError: there is no such file, model, module or attribute, or the file's network is not described.
    """
    path = None if weights in (None, NOTHING) else _weights_file(Path(str(weights)))
    if model is None:
        if path is None:
            raise InputError("neither weights nor a model are named; expected a safetensors file, or --model")
        spec = _description(path)
        return Network(name=spec.name, build=_from_description(spec, path), weights=path, description=spec)
    if ":" in model:
        return Network(name=model, build=_from_callable(model), weights=path)
    if model not in MODELS:
        known = unknown_choice("model", model, list(MODELS))
        raise InputError(f"{known}; or an import path such as package.module:callable")
    if path is None:
        raise InputError(f"model {model!r} has no weights of its own; expected a safetensors file of them")
    return Network(name=model, build=_by_name(model), weights=path)


def _weights_file(path: Path) -> Path:
    """The file that is meant; if a manifest of the store lies beside it, that is verified."""
    if path.is_dir():
        found = [path / name for name in WEIGHTS if (path / name).is_file()]
        if not found:
            raise InputError(f"no weights in {str(path)!r}; expected {' or '.join(WEIGHTS)} in the folder")
        path = found[0]
    elif not path.is_file():
        raise InputError(f"there is no file {str(path)!r}; expected weights as a safetensors file")
    if (path.parent / MANIFEST).is_file():
        try:
            read_entry(path.parent)
        except CorruptEntryError as error:
            raise InputError(f"{str(path.parent)!r} is damaged: {error}; expected it as stored") from error
    return path


def _description(weights: Path) -> ModelSpec:
    path = weights.parent / ARCHITECTURE
    if not path.is_file():
        raise InputError(
            f"nothing says what network {str(weights)!r} is of; expected --model, or {ARCHITECTURE} beside it"
        )
    try:
        return load_spec(weights.parent)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{str(path)!r} does not describe a network ({type(error).__name__}: {_line(error)}); "
            "expected it as the pipeline wrote it"
        ) from error


def _from_description(spec: ModelSpec, weights: Path) -> Callable[[tuple[int, int, int], int], nn.Module]:
    def build(image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        own = spec.in_channels, spec.image_size, spec.image_size
        if (own, spec.num_classes) != (image_shape, num_classes):
            raise InputError(
                f"{str(weights)!r} is for {_shape(own)} images of {spec.num_classes} classes; "
                f"expected {_shape(image_shape)} and {num_classes}, as the data set has"
            )
        return spec.build()

    return build


def _by_name(name: str) -> Callable[[tuple[int, int, int], int], nn.Module]:
    def build(image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        channels, height, _ = image_shape
        # mean and std are buffers: they come with the weights
        return build_model(name, in_channels=channels, image_size=height, num_classes=num_classes)

    return build


def _from_callable(path: str) -> Callable[[tuple[int, int, int], int], nn.Module]:
    """Imports at once; calls when the network is built."""
    module_name, _, attribute = path.partition(":")
    if not module_name or not attribute:
        raise InputError(f"model {path!r} is no import path; expected one such as package.module:callable")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the user's code does
        raise InputError(f"model {path!r}: cannot import {module_name!r}: {_reason(error)}") from error
    try:
        found = attrgetter(attribute)(module)
    except AttributeError:
        public = [name for name, value in vars(module).items() if callable(value) and name[0] != "_"]
        raise unknown_choice(f"callable in {module_name!r}:", attribute, public) from None
    if not callable(found):
        raise InputError(f"model {path!r} is of type {type(found).__name__}; expected a callable")

    def build(image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        try:
            made = found if isinstance(found, nn.Module) else found()
        except Exception as error:
            raise InputError(f"model {path!r} cannot be called: {_reason(error)}") from error
        if not isinstance(made, nn.Module):
            raise InputError(
                f"model {path!r} returned a value of type {type(made).__name__}; expected a torch.nn.Module"
            )
        return made

    return build


def _load_weights(model: nn.Module, path: Path, name: str) -> None:
    try:
        state = load_file(path)
    except SafetensorError as error:
        raise InputError(
            f"{str(path)!r} is not a safetensors file ({_line(error)}); weights are read from no other format"
        ) from error
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        wrong = _differences(model.state_dict(), state) or _line(error)
        raise InputError(f"{str(path)!r} has not the weights of {name!r}: {wrong}") from error


def _differences(wanted: dict[str, Any], found: dict[str, Tensor]) -> str:
    """Names that are missing, that should not be there, and of another shape; a few of each."""
    shapes = [
        f"{name} is {tuple(found[name].shape)} and not {tuple(value.shape)}"
        for name, value in wanted.items()
        if name in found and isinstance(value, Tensor) and found[name].shape != value.shape
    ]
    kinds = {
        "missing": [name for name in wanted if name not in found],
        "not expected": [name for name in found if name not in wanted],
        "of another shape": shapes,
    }
    return "; ".join(
        f"{len(names)} {kind}: {', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''}"
        for kind, names in kinds.items()
        if names
    )


def try_out(model: nn.Module, x: Tensor, num_classes: int) -> None:
    """Pass forwards and backwards on `x`, float (batch, channels, height, width) in [0, 1].

    Raises `InputError` if a pass fails, or its result is not logits of shape (batch, `num_classes`).
    """
    with frozen_for_evaluation(model):
        try:
            x = x.contiguous(memory_format=image_layout([model], x)).requires_grad_()
            logits = model(x)
            if isinstance(logits, Tensor) and logits.requires_grad:
                torch.autograd.grad(logits.sum(), x, allow_unused=True)
        except Exception as error:  # whatever the user's code does
            raise InputError(
                f"the model fails on {len(x)} images of {_shape(tuple(x.shape[1:]))}: {_reason(error)}"
            ) from error
    if not isinstance(logits, Tensor):
        raise InputError(f"the model returned a {type(logits).__name__}; expected a tensor of logits")
    check_logits_shape(logits, len(x), num_classes)


def _shape(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes))


def _line(error: Exception) -> str:
    return shortened(" ".join(str(error).split()))


def _reason(error: Exception) -> str:
    """The type and text of an error of the user's code, and where in that it was raised, in one line."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if (path := Path(frame.filename)).is_relative_to(Path.cwd())
        and "site-packages" not in path.parts
        and path != Path(__file__)
    ]
    where = f" ({Path(frames[-1].filename).name} line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {_line(error)}{where}"
