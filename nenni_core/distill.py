"""Learn the approximation of each layer from the dense network (paper section 3.1, equation 1)."""

from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nenni_core.distill_checkpoint import Descent, Done, Kept, LayerMoments
from nenni_core.errors import InputError, TrainingDiverged, unknown_choice
from nenni_core.inject import dense_mode, injected_layers
from nenni_core.layers import NoisyLayer
from nenni_core.modes import observed_only
from nenni_core.moments import Moments, grouped_positions
from nenni_core.progress import ProgressCallback, silent
from nenni_core.randomness import make_generator
from nenni_core.selection import select_essential

Images = Float[Tensor, "_ ..."]  # the last batch may be smaller
Batch = Tensor | Sequence[Tensor]
LayerVisitor = Callable[[str, NoisyLayer, Tensor, Tensor], None]

SOLVERS = ("least_squares", "sgd")

MEASURING, DESCENDING = "measuring layers", "distilling"
"""What `on_progress` is told: a step is a batch, or a pass over all of them."""


@dataclass(frozen=True, kw_only=True)
class LayerQuality:
    """How well one layer's approximation fits, on the data it was distilled on."""

    name: str
    nmse: float
    """Normalised mean squared error ||z - z_approx||^2 / ||z - mean||^2 before rounding; mean over a bank."""
    nmse_quantized: float
    """The same after rounding W~ and b~."""
    top_k_recall: float
    """Share of the truly essential neurons that the approximation selects by the model's ratio or pattern,
    on up to four batches; 1 where none is essential."""


def distill(
    model: nn.Module,
    data: Iterable[Batch],
    *,
    solver: Literal["least_squares", "sgd"] = "least_squares",
    epochs: int = 50,
    learning_rate: float = 0.5,
    momentum: float = 0.9,
    ridge: float = 1e-6,
    checkpoint_dir: Path | None = None,
    on_progress: ProgressCallback = silent,
) -> list[LayerQuality]:
    """Fit W~ and b~ of every injected layer to the dense layer's output, then round them.

    Each layer learns on its own true input: one forward pass of the dense network serves all layers. With
    `quantize_projected` the fixed-point format of P x is the best one for the first batch.

    Args:
        model: an injected model; its approximation is replaced in place.
        data: batches of images in [0, 1], alone or first in a tuple (images, labels); iterated several
            times, so a list or a loader, not a generator.
        solver: "least_squares", the closed-form optimum of equation 1 from one pass; or "sgd", momentum
            SGD on the mean squared error as the paper, `epochs` passes with cosine decay.
        learning_rate: of "sgd", relative to each layer's mean ||P x||^2, which bounds the largest stable
            step; so one value suits all layers.
        ridge: damping of "least_squares" relative to the mean variance of P x.
        checkpoint_dir: where a checkpoint is written every 64 measured batches and after every epoch of
            "sgd". The same call, with the model as it was at the first start, goes on after
            the last whole one, to the bits of an uninterrupted run. `on_progress` may raise to stop it.

    Raises:
        InputError: the model has no injected layers, the data is empty, the solver is not known, or
            `checkpoint_dir` is of another distillation.
        TrainingDiverged: the solution has values that are not finite.
    """
    if solver not in SOLVERS:
        raise unknown_choice("solver", solver, list(SOLVERS))
    layers = injected_layers(model)
    if not layers:
        raise InputError(f"{type(model).__name__} has no injected layers to distil; call inject first")
    images = _Images(data)
    kept = Kept(
        checkpoint_dir,
        model,
        layers,
        next(iter(images), None),
        solver=solver,
        epochs=epochs,
        learning_rate=learning_rate,
        momentum=momentum,
        ridge=ridge,
        batches=len(images),
    )
    with observed_only(model):
        moments = {
            name: [
                Moments(layer.groups, layer.rank, layer.weight.shape[0] // layer.groups) for _ in layer.signs
            ]
            for name, layer in layers.items()
        }
        for layer in layers.values():
            layer.projected_exponent.fill_(float("nan"))
        done = kept.restore(moments)
        if done.epochs == 0:  # else all is measured
            done = _measure(model, layers, moments, images, done, kept, on_progress)
        if solver == "least_squares":
            for name, layer in layers.items():
                for index, moment in enumerate(moments[name]):
                    _assign(layer, index, *moment.solve(ridge))
        else:
            _descend(model, layers, moments, images, epochs, learning_rate, momentum, done, kept, on_progress)
        for name, layer in layers.items():
            if not (layer.approx_weight.isfinite().all() and layer.approx_bias.isfinite().all()):
                raise TrainingDiverged(
                    f"distillation of layer {name!r} by {solver} ended in values that are not finite; "
                    + (f"lower the learning rate {learning_rate:g}" if solver == "sgd" else "raise the ridge")
                )
            layer.refit_exponents()
        return _quality(model, layers, moments, images)


@torch.no_grad()
def calibrate(model: nn.Module, data: Iterable[Batch], *, samples_per_layer: int = 1 << 20) -> None:
    """Fix each layer's threshold so that its configured share of neurons gets noise on average over `data`.

    Thresholds replace the exact count of every sample (hardware that streams needs no sort). They are
    quantiles of each layer's scores while all layers inject by exact count; if there are more than
    `samples_per_layer` scores, of a random sample of each batch.

    Raises:
        InputError: the model has no injected layers, a pattern is set, or the data is empty.
    """
    layers = injected_layers(model)
    if not layers:
        raise InputError(f"{type(model).__name__} has no injected layers to calibrate; call inject first")
    patterned = [name for name, layer in layers.items() if layer.injection.pattern is not None]
    if patterned:
        raise InputError(f"layer {patterned[0]!r} keeps a pattern, which has no threshold; set a ratio first")
    images = _Images(data)
    batches = sum(1 for _ in images)
    scores: dict[str, list[Tensor]] = {name: [] for name in layers}
    selections = {name: layer.injection.selection for name, layer in layers.items()}
    generators = {
        name: make_generator(layer.injection.seed, "calibrate", name) for name, layer in layers.items()
    }

    def collect(name: str, layer: NoisyLayer, x: Tensor, output: Tensor) -> None:
        values = layer.approximate(x).float().flatten()
        share = -(-samples_per_layer // batches)
        if len(values) > share:  # drawn, not strided: a stride could see one column of the image only
            chosen = torch.randint(len(values), (share,), generator=generators[name])
            values = values[chosen.to(values.device)]
        scores[name].append(values.abs() if layer.injection.score == "magnitude" else values)

    try:
        for layer in layers.values():
            layer.change_injection(selection="top_k")
        with observed_only(model), _visited(layers, collect):
            for x in images:
                model(x)
    finally:
        for name, layer in layers.items():
            layer.change_injection(selection=selections[name])
    for name, layer in layers.items():
        if not scores[name]:
            raise InputError(
                f"no data reached layer {name!r}: expected at least one batch of images to calibrate on"
            )
        values = torch.cat(scores[name])
        kept = layer.injection.kept(len(values))
        if layer.injection.target == "essential":  # the smallest are kept, those at the threshold included
            layer.threshold.copy_(values.kthvalue(kept).values if kept else values.min() - 1)
        else:  # the largest are kept, those at the threshold not
            cut = len(values) - kept
            layer.threshold.copy_(values.kthvalue(cut).values if cut else values.min() - 1)


class _Images:
    """The images of batches that may have labels beside them; can be iterated again and again."""

    def __init__(self, data: Iterable[Batch]) -> None:
        if isinstance(data, Tensor):
            raise InputError(
                f"data is one tensor of shape {tuple(data.shape)}; expected batches, such as a list of it"
            )
        if iter(data) is data:
            raise InputError(
                f"data is a {type(data).__name__}, which can be read only once; "
                "expected a list of batches or a loader"
            )
        self._data = data

    def __len__(self) -> int:
        return len(self._data) if isinstance(self._data, Sized) else 0

    def __iter__(self) -> Iterator[Images]:
        for batch in self._data:
            yield batch if isinstance(batch, Tensor) else batch[0]


@contextmanager
def _visited(layers: dict[str, NoisyLayer], visit: LayerVisitor) -> Iterator[None]:
    """Call `visit(name, layer, input, output)` each time an injected layer runs."""

    def hook(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(module, NoisyLayer)
        visit(name, module, inputs[0], output)

    with ExitStack() as stack:
        for name, layer in layers.items():
            stack.callback(layer.register_forward_hook(partial(hook, name)).remove)
        yield


def _features(layer: NoisyLayer, index: int, x: Tensor) -> Float[Tensor, "groups positions rank"]:
    return grouped_positions(layer, layer.projected(x, index))


@torch.no_grad()
def _measure(
    model: nn.Module,
    layers: dict[str, NoisyLayer],
    moments: LayerMoments,
    data: "_Images",
    done: Done,
    kept: Kept,
    on_progress: ProgressCallback,
) -> Done:
    """One pass of the dense network from where it is; also fixes the format of P x if that is rounded.

    The format is fitted to the first batch alone: the moments of the rounded P x, which this same pass
    sums, need it from the first batch on. Larger values of later batches saturate.
    """
    total = len(data)

    def visit(name: str, layer: NoisyLayer, x: Tensor, z: Tensor) -> None:
        if first and layer.injection.quantize_projected and torch.isnan(layer.projected_exponent):
            layer.fit_projected_exponent(x)
        for index, moment in enumerate(moments[name]):
            moment.add(_features(layer, index, x), grouped_positions(layer, z))

    with dense_mode(model), _visited(layers, visit):
        for batch, x in enumerate(islice(data, done.batches, None), start=done.batches + 1):
            first = batch == 1
            model(x)
            done = Done(batches=batch)
            if kept.is_due(batch):
                kept.save(moments, done)
            on_progress(MEASURING, batch, max(total, batch))
    empty = [name for name in layers if moments[name][0].count == 0]
    if empty:
        raise InputError(
            f"no data reached layer {empty[0]!r}: expected at least one batch of images to distil on"
        )
    return done


def _assign(layer: NoisyLayer, index: int, weight: Tensor, bias: Tensor) -> None:
    with torch.no_grad():
        layer.approx_weight[index].copy_(weight)
        layer.approx_bias[index].copy_(bias)


def _descend(
    model: nn.Module,
    layers: dict[str, NoisyLayer],
    moments: LayerMoments,
    data: "_Images",
    epochs: int,
    learning_rate: float,
    momentum: float,
    done: Done,
    kept: Kept,
    on_progress: ProgressCallback,
) -> None:
    """Momentum SGD on (1/positions) ||z - W~ P x - b~||^2, all layers in one pass."""
    groups: list[dict[str, Any]] = []
    for name, layer in layers.items():
        power = max(float(moment.power_y.sum(1).max()) for moment in moments[name])
        groups.append({"params": [layer.approx_weight, layer.approx_bias], "lr": learning_rate / (1 + power)})
    parameters = [parameter for group in groups for parameter in group["params"]]
    wanted = [parameter.requires_grad for parameter in parameters]
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.SGD(groups, momentum=momentum)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, epochs))
    descent = Descent(layers, optimizer, schedule)
    descent.restore(done)

    def step(name: str, layer: NoisyLayer, x: Tensor, z: Tensor) -> None:
        target = grouped_positions(layer, z)
        with torch.enable_grad():
            for index in range(layer.injection.projections):
                weight = layer.approx_weight[index].reshape(layer.groups, -1, layer.rank)
                bias = layer.approx_bias[index].reshape(layer.groups, 1, -1)
                residual = _features(layer, index, x) @ weight.transpose(1, 2) + bias - target
                (residual.square().sum() / target.shape[1]).backward()

    try:
        with dense_mode(model), _visited(layers, step):
            for epoch in range(done.epochs, epochs):
                for x in data:
                    optimizer.zero_grad()
                    with torch.no_grad():
                        model(x)
                    optimizer.step()
                schedule.step()
                kept.save(moments, replace(done, epochs=epoch + 1), descent)
                on_progress(DESCENDING, epoch + 1, epochs)
    finally:
        optimizer.zero_grad()
        for parameter, requires_grad in zip(parameters, wanted, strict=True):
            parameter.requires_grad_(requires_grad)


@torch.no_grad()
def _quality(
    model: nn.Module, layers: dict[str, NoisyLayer], moments: LayerMoments, data: "_Images"
) -> list[LayerQuality]:
    hits = dict.fromkeys(layers, 0)
    wanted = dict.fromkeys(layers, 0)

    def visit(name: str, layer: NoisyLayer, x: Tensor, z: Tensor) -> None:
        rule = replace(layer.injection, selection="top_k", target="non_essential")
        truly, found = (
            select_essential(output.movedim(layer.channel_axis, -1), rule)
            for output in (z, layer.approximate(x))
        )
        hits[name] += int((truly & found).sum())
        wanted[name] += int(truly.sum())

    with dense_mode(model), _visited(layers, visit):
        for x in islice(data, 4):
            model(x)
    result = []
    for name, layer in layers.items():
        exact, rounded = [], []
        for index, moment in enumerate(moments[name]):
            exact.append(moment.normalised_error(layer.approx_weight[index], layer.approx_bias[index]))
            rounded.append(moment.normalised_error(*layer.rounded_parameters(index)))
        result.append(
            LayerQuality(
                name=name,
                nmse=sum(exact) / len(exact),
                nmse_quantized=sum(rounded) / len(rounded),
                top_k_recall=hits[name] / wanted[name] if wanted[name] else 1.0,
            )
        )
    return result
