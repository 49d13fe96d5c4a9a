"""Put noise into a model, and change it later."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields, replace
from typing import Any

from torch import nn

from nenni_core.errors import InputError, unknown_choice
from nenni_core.injection import GradientMode, Injection
from nenni_core.layers import NoisyConv2d, NoisyLayer, NoisyLinear
from nenni_core.randomness import noise_streams, set_noise

_CHANGEABLE = ("ratio", "pattern", "selection", "score", "target", "gradient")
_NOT_SUPPORTED = (nn.Conv1d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def inject(
    model: nn.Module, injection: Injection, *, linear: bool = False, skip: Sequence[str] = ()
) -> nn.Module:
    """A copy of `model` whose convolutions inject noise into their non-essential neurons.

    Works on a trained network of any origin; `model` itself is left as it is. The approximation starts
    as the Johnson-Lindenstrauss estimate of each layer: call `distill` next. Parameters keep their
    names, so that a state dict of the dense model still fits (`strict=False`).

    A state dict holds tensors only. To rebuild the model from it, keep `dataclasses.asdict(injection)`,
    `linear` and `skip` beside it, and the changes made by `set_injection`: with another ratio, pattern,
    selection or number of bits the state loads too, and the model computes something else. (The seed may
    differ: the projections are part of the state.)

    Args:
        model: any module with `nn.Conv2d` layers (grouped, dilated and strided ones included).
        injection: what is injected where.
        linear: inject into `nn.Linear` layers too; the paper leaves them alone.
        skip: names of layers that stay dense, or of modules all of whose layers do, as
            `model.named_modules()` gives them.

    Raises:
        InputError: nothing can be injected, a layer cannot be (it is named, with the reason), or `skip`
            names no layer.
    """
    chosen = injectable_layers(model, linear=linear, skip=skip)
    replacements: dict[int, NoisyLayer] = {}
    result = copy.deepcopy(model)
    for name in chosen:
        module = result.get_submodule(name)
        if isinstance(module, nn.Conv2d):
            replacements[id(module)] = NoisyConv2d(module, injection, name)
        elif isinstance(module, nn.Linear):
            replacements[id(module)] = NoisyLinear(module, injection, name)
    if id(result) in replacements:
        result = replacements[id(result)]
    else:
        for module in list(result.modules()):
            for child_name, child in module._modules.items():  # a child under two names is wanted under both
                if child is not None and id(child) in replacements:
                    setattr(module, child_name, replacements[id(child)])
    if injection.is_random:
        set_noise(result, "inference", injection.seed)
    return result


def injectable_layers(model: nn.Module, *, linear: bool = False, skip: Sequence[str] = ()) -> list[str]:
    """The names of the layers that `inject` would put noise into, in the order of the modules.

    Arguments and errors are those of `inject`.
    """
    named = dict(model.named_modules(remove_duplicate=False))
    for name in skip:
        if name not in named:
            raise unknown_choice("layer to skip", name, list(named))
    skipped = {id(inner) for name in skip for inner in named[name].modules()}
    chosen = []
    for name, module in model.named_modules():
        if id(module) in skipped:
            continue
        reason = _why_not(module, linear)
        if reason:
            raise InputError(
                f"layer {name!r} ({type(module).__name__}) cannot be injected: {reason}; "
                f"skip=({name!r},) leaves it dense"
            )
        if isinstance(module, nn.Conv2d) or (linear and isinstance(module, nn.Linear)):
            chosen.append(name)
    if not chosen:
        kinds = "nn.Conv2d or nn.Linear" if linear else "nn.Conv2d"
        raise InputError(f"{type(model).__name__} has no {kinds} layer to inject noise into")
    return chosen


def injected_layers(model: nn.Module) -> dict[str, NoisyLayer]:
    """The noise-injected layers of a model by name, in the order of its modules; empty for a plain model."""
    return {name: module for name, module in model.named_modules() if isinstance(module, NoisyLayer)}


def set_injection(model: nn.Module, **changes: Any) -> nn.Module:
    """Change which neurons get noise, or what autograd sees, in every injected layer; returns `model`.

    Accepts `ratio` or `pattern` (each replaces the other), `selection`, `score`, `target` and
    `gradient`. After a change of ratio with `selection="threshold"`, `calibrate` must run again.

    Raises:
        InputError: the model has no injected layer, or a field or value is not valid.
    """
    layers = _require_injected(model)
    for name in changes:
        if name not in _CHANGEABLE:
            known = name in {field.name for field in fields(Injection)}
            if known:
                raise InputError(
                    f"{name!r} is fixed when the approximation is built; inject the dense model again"
                )
            raise unknown_choice("injection field", name, list(_CHANGEABLE))
    if changes.get("ratio") is not None and changes.get("pattern") is None:
        changes["pattern"] = None
    elif changes.get("pattern") is not None and changes.get("ratio") is None:
        changes["ratio"] = None
    for layer in layers.values():
        layer.change_injection(**changes)
    if len(noise_streams(model)) > 1:  # layers that have just become random
        set_noise(model, "inference", next(iter(layers.values())).injection.seed)
    return model


def set_layer_ratios(model: nn.Module, ratios: Mapping[str, float]) -> nn.Module:
    """Give layers ratios of their own, by name; returns `model`.

    A layer with a ratio of 0 is the dense layer. One that is not named keeps the ratio or pattern that it
    has; what else is configured stays as it is in all of them. With `selection="threshold"`, `calibrate`
    must run again.

    Raises:
        InputError: the model has no injected layer, no layer has such a name, or a ratio is outside [0, 1].
            Nothing is changed then.
    """
    layers = _require_injected(model)
    for name in ratios:
        if name not in layers:
            raise unknown_choice("layer", name, list(layers))
    for name, ratio in ratios.items():
        try:
            replace(layers[name].injection, ratio=ratio, pattern=None)
        except InputError as error:
            raise InputError(f"layer {name!r}: {error}") from None
    for name, ratio in ratios.items():
        layers[name].change_injection(ratio=ratio, pattern=None)
    return model


def _require_injected(model: nn.Module) -> dict[str, NoisyLayer]:
    layers = injected_layers(model)
    if not layers:
        raise InputError(
            f"{type(model).__name__} has no injected layers; call inject(model, Injection(...)) first"
        )
    return layers


@contextmanager
def gradient_mode(model: nn.Module, mode: GradientMode) -> Iterator[None]:
    """Let autograd see the low-precision path as `mode` says; does nothing for a plain model."""
    layers = list(injected_layers(model).values())
    before = [layer.injection.gradient for layer in layers]
    for layer in layers:
        layer.change_injection(gradient=mode)
    try:
        yield
    finally:
        for layer, gradient in zip(layers, before, strict=True):
            layer.change_injection(gradient=gradient)


@contextmanager
def dense_mode(model: nn.Module) -> Iterator[None]:
    """The model without noise: every injected layer gives its precise output."""
    with ExitStack() as stack:
        for layer in injected_layers(model).values():
            stack.enter_context(layer.as_dense())
        yield


def _why_not(module: nn.Module, linear: bool) -> str | None:
    """Why a layer that should get noise cannot, or None."""
    if isinstance(module, NoisyLayer):
        return "it has noise already (use set_injection to change it)"
    if isinstance(module, _NOT_SUPPORTED):
        return "only two-dimensional convolutions are supported"
    if linear and isinstance(module, (nn.MultiheadAttention, nn.TransformerEncoderLayer)):
        return "PyTorch's fused path goes past the linear layers inside"
    if not isinstance(module, (nn.Conv2d, nn.Linear) if linear else nn.Conv2d):
        return None
    plain = nn.Conv2d if isinstance(module, nn.Conv2d) else nn.Linear
    own = type(module).__mro__[: type(module).__mro__.index(plain)]
    if any({"forward", "_conv_forward", "__call__"} & vars(cls).keys() for cls in own):
        return "its forward pass is not that of the plain layer"
    if isinstance(module.weight, nn.parameter.UninitializedParameter):
        return "it has no weights yet; run the model on one batch first"
    if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks:
        return "it has hooks, which the injected layer would not call"
    if "weight" not in module._parameters:
        return "its weight is computed from other parameters (normalised, pruned or parametrised)"
    if not module.weight.is_floating_point():
        return f"its weights are {module.weight.dtype}, not floating point"
    return None
