"""Build a network differently: replace modules, or run a layer with other weights than its own."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.func import functional_call


def replace_modules(model: nn.Module, make: Callable[[str, nn.Module], nn.Module | None]) -> nn.Module:
    """`model` with every module for which `make(name, module)` is not None replaced, in place.

    What has been replaced is not searched for further modules. A module that the model has under two names
    is replaced by one module under both. Returns the replacement if the model itself is replaced.
    """
    replacements: dict[int, nn.Module] = {}
    inside: set[int] = set()
    for name, module in list(model.named_modules()):
        if id(module) in inside:
            continue
        replacement = make(name, module)
        if replacement is not None:
            replacements[id(module)] = replacement
            inside |= {id(inner) for inner in module.modules()}
    if id(model) in replacements:
        return replacements[id(model)]
    for module in list(model.modules()):
        for child_name, child in module._modules.items():
            if child is not None and id(child) in replacements:
                setattr(module, child_name, replacements[id(child)])
    return model


def run_with_weight(layer: nn.Module, weight: Tensor, x: Tensor) -> Tensor:
    """The output of `layer` as if `weight` were its weight; works for injected layers too.

    An injected layer then computes its precise path with `weight`; its approximation stays that of its own.
    """
    return functional_call(layer, {"weight": weight}, (x,))
