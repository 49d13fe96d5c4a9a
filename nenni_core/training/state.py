"""What a checkpoint of a training run holds, and which run it belongs to."""

from collections.abc import Mapping
from dataclasses import asdict

import torch
from torch import Tensor, nn

from nenni_core.checkpoint import digest
from nenni_core.defenses.defense import Defense
from nenni_core.inject import injected_layers
from nenni_core.randomness import load_noise_state, noise_state
from nenni_core.training.recipe import Recipe

FORMAT = 1
"""Raised when a checkpoint of an older form cannot be read any more."""


def identity(
    model: nn.Module, data: Mapping[str, Tensor], recipe: Recipe, seed: int, defense: Defense
) -> dict[str, object]:
    """Flat JSON that is equal exactly for calls that continue each other."""
    settings = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(recipe).items()}
    return {
        "format": FORMAT,
        **settings,
        "seed": seed,
        "defense": repr(defense),
        "model": repr(model),
        "injection": sorted({repr(layer.injection) for layer in injected_layers(model).values()}),
        "device type": next(model.parameters()).device.type,
        "initial weights": digest(model.state_dict()),
        "trained parameters": [name for name, p in model.named_parameters() if p.requires_grad],
        "data": digest(data),
    }


def pack(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    generators: Mapping[str, torch.Generator],
    best: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """All tensors of a checkpoint; there is no scheduler state, the rate follows from the epoch."""
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"best/{name}": tensor for name, tensor in best.items()}
    tensors |= {f"generator/{name}": generator.get_state() for name, generator in generators.items()}
    tensors |= {f"noise/{name}": tensor for name, tensor in noise_state(model).items()}
    for i, parameter in enumerate(_parameters(optimizer)):
        for name, value in optimizer.state[parameter].items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{i}/{name}"] = value
    return tensors


def unpack(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    generators: Mapping[str, torch.Generator],
    tensors: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Undo `pack` in place; returns the best state."""
    model.load_state_dict(_under("model/", tensors))
    load_noise_state(model, _under("noise/", tensors))
    for name, generator in generators.items():
        generator.set_state(tensors[f"generator/{name}"])
    for i, parameter in enumerate(_parameters(optimizer)):
        for name, value in _under(f"optimizer/{i}/", tensors).items():
            # In the memory format of the parameter, as the optimiser made it: bits may depend on it.
            like = parameter if value.shape == parameter.shape else value
            optimizer.state[parameter][name] = torch.empty_like(
                like, dtype=value.dtype, device=parameter.device, requires_grad=False
            ).copy_(value)
    return _under("best/", tensors)


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
