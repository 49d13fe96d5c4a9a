"""Noise-injected layers: z' = z * mask + z_approx * (1 - mask) (paper equation 2).

A noisy layer is the dense layer it replaces (same parameters under the same names) plus a low-rank
approximation of it. Nothing of the dense layer is changed, so essential outputs are the dense layer's
to the bit.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from nenni_core.errors import InputError
from nenni_core.injection import Injection
from nenni_core.mixing import mix, mix_integers
from nenni_core.projection import draw_signs, projection_matrix, projection_rank, projection_scale
from nenni_core.quantize import best_exponent, fixed_point
from nenni_core.randomness import NoiseStream, make_generator
from nenni_core.selection import INTEGERS, select_essential, select_essential_integers

MaskObserver = Callable[[Bool[Tensor, "batch *output"]], None]


def _has_fast_integers(values: Tensor) -> bool:
    """Whether masks are better integers than booleans: on a CPU, where only those are vectorised."""
    return values.device.type == "cpu"


def _values(tensors: Sequence[Tensor]) -> list[bytes]:
    """The bytes of those tensors that are on the CPU: an order faster to compare than by `torch.equal`."""
    return [
        t.detach().contiguous().view(torch.uint8).numpy().tobytes() for t in tensors if t.device.type == "cpu"
    ]


class NoisyLayer(nn.Module):
    """What noise-injected convolutions and linear layers share.

    Trainable: `weight` and `bias` of the dense layer; `approx_weight` W~ (one per projection, n x k)
    and `approx_bias` b~. Buffers: `signs` of P (per projection and group, k x d), the power-of-two
    exponents of the fixed-point formats, and the `threshold` of `selection="threshold"` (NaN until
    `calibrate` has run). Start values are the Johnson-Lindenstrauss estimate W~ = W P^T, b~ = b.

    Random layers have a `noise_stream`; it is not part of the state.
    """

    channel_axis: int
    weight: Tensor
    bias: Any  # a parameter or None; the two layer types declare it differently
    groups: int
    signs: Tensor
    weight_exponent: Tensor
    bias_exponent: Tensor
    projected_exponent: Tensor
    threshold: Tensor

    def _build_approximation(self, injection: Injection, name: str) -> None:
        """Draw P from (seed, layer name) and start W~, b~; called once by the constructors."""
        self.injection = injection
        self.layer_name = name
        self.is_dense = False
        self.mask_observer: MaskObserver | None = None
        self._kernels: dict[int, tuple[Any, list[bytes], tuple[Tensor, Tensor]]] = {}
        self._give_or_take_stream()
        outputs, device = self.weight.shape[0], self.weight.device
        dimension = self.weight[0].numel()
        rank = projection_rank(dimension, injection.projection_ratio)
        generator = make_generator(injection.seed, "projection", name)
        signs = [
            torch.stack([draw_signs(rank, dimension, generator) for _ in range(self.groups)])
            for _ in range(injection.projections)
        ]
        self.register_buffer("signs", torch.stack(signs).to(device))
        estimate = torch.einsum("gnd,rgkd->rgnk", self._grouped_weight(), projection_matrix(self.signs))
        self.approx_weight = nn.Parameter(estimate.reshape(injection.projections, outputs, rank))
        bias = torch.zeros(outputs, device=device) if self.bias is None else self.bias.detach()
        self.approx_bias = nn.Parameter(bias.float().expand(injection.projections, -1).clone())
        scales = outputs if injection.scale == "per_channel" else 1
        for buffer, shape in (("weight_exponent", (injection.projections, scales, 1)),
                              ("bias_exponent", (injection.projections, 1, 1))):  # fmt: skip
            self.register_buffer(buffer, torch.zeros(shape, device=device))
        self.register_buffer("projected_exponent", torch.full((), float("nan"), device=device))
        self.register_buffer("threshold", torch.full((), float("nan"), device=device))
        self._looked_at: tuple[tuple[int, int], bool] | None = None
        """The version of the threshold that was looked at, and whether it was calibrated."""
        self.refit_exponents()

    def _give_or_take_stream(self) -> None:
        """Random layers, and only they, have a noise stream."""
        if not self.injection.is_random:
            self.__dict__.pop("noise_stream", None)
        elif not hasattr(self, "noise_stream"):
            self.noise_stream = NoiseStream(self.injection.seed, "inference")

    def _grouped_weight(self) -> Float[Tensor, "groups outputs dimension"]:
        return self.weight.detach().float().reshape(self.groups, self.weight.shape[0] // self.groups, -1)

    @property
    def rank(self) -> int:
        """k, the rows of the projection."""
        return self.signs.shape[-2]

    @property
    def input_dimension(self) -> int:
        """d, the inputs that one output neuron sees."""
        return self.signs.shape[-1]

    def refit_exponents(self) -> None:
        """Choose the fixed-point scales anew from the present W~ and b~ (paper: once, after distillation)."""
        per_channel = self.injection.scale == "per_channel"
        with torch.no_grad():
            for index in range(self.injection.projections):
                weight, bias = self.approx_weight[index], self.approx_bias[index].unsqueeze(0)
                self.weight_exponent[index] = best_exponent(weight, self.injection.bits, per_row=per_channel)
                self.bias_exponent[index] = best_exponent(bias, self.injection.bits, per_row=False)
        self._kernels.clear()

    @torch.no_grad()
    def fit_projected_exponent(self, x: Float[Tensor, "batch *input"]) -> None:
        """Choose the fixed-point scale of P x for inputs like `x`, over all projections of the layer."""
        kernels = projection_matrix(self.signs).flatten(0, 2).reshape(-1, *self.weight.shape[1:])
        per_projection = kernels.chunk(self.injection.projections)
        values = torch.cat(
            [self._affine(x, kernel.to(x.dtype), None).float().flatten() for kernel in per_projection]
        )
        self.projected_exponent.copy_(
            best_exponent(values.unsqueeze(0), self.injection.bits, per_row=False).squeeze()
        )

    def _affine(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The dense layer's own operation with other parameters of the same shape (any number of outputs)."""
        raise NotImplementedError  # by the two layer types below

    def _mix(self, projected: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """W~ (n x k) applied to the projected input at every position."""
        raise NotImplementedError  # by the two layer types below

    def precise(self, x: Float[Tensor, "batch *input"]) -> Float[Tensor, "batch *output"]:
        """z, the dense layer's output."""
        return self._affine(x, self.weight, self.bias)

    def projected(self, x: Float[Tensor, "batch *input"], index: int = 0) -> Float[Tensor, "batch *ranks"]:
        """P x for every group and position, rounded if the configuration says so."""
        kernel = projection_matrix(self.signs[index]).flatten(0, 1)
        y = self._affine(x, kernel.reshape(len(kernel), *self.weight.shape[1:]).to(x.dtype), None)
        if not self.injection.quantize_projected:
            return y
        exponent = self.projected_exponent
        if torch.isnan(exponent):  # not distilled yet: the range of this batch
            exponent = best_exponent(y.float().reshape(1, -1), self.injection.bits, per_row=False).squeeze()
        return fixed_point(y.float(), exponent, self.injection.bits).to(y.dtype)

    def approximate(self, x: Float[Tensor, "batch *input"]) -> Float[Tensor, "batch *output"]:
        """z_approx = W~ P x + b~ with the configured randomness and rounding.

        As W~ P is a matrix of the dense layer's shape, one convolution computes both products; only a
        rounded P x needs two.
        """
        index, dither = self._draw()
        if self.injection.quantize_projected:
            parameters = self._in_type_of(x, *self.rounded_parameters(index, dither))
            return self._mix(self.projected(x, index), *parameters)
        return self._affine(x, *self._in_type_of(x, *self._folded(index, dither)))

    def forward(self, x: Tensor) -> Tensor:
        """z' of the paper's equation 2, with the gradient that the configuration asks for."""
        density, observer = self.injection.density, self.mask_observer
        if self.is_dense or density == 1 or len(x) == 0:
            z = self.precise(x)
            if observer is not None and not self.is_dense:
                observer(torch.ones_like(z, dtype=torch.bool))
            return z
        blocked = self.injection.gradient == "blocked"
        with torch.set_grad_enabled(torch.is_grad_enabled() and not blocked):
            z_approx = self.approximate(x)
        if density == 0 and observer is None and not (blocked and torch.is_grad_enabled()):
            return z_approx
        if self.injection.selection == "threshold" and density != 0 and not self._is_calibrated():
            raise InputError(
                f"layer {self.layer_name!r} has no threshold for this ratio; call calibrate(model, data)"
            )
        scores = z_approx.movedim(self.channel_axis, -1)
        if _has_fast_integers(z_approx):
            chosen = self._choose(scores, select_essential_integers).movedim(-1, self.channel_axis)
            if observer is not None:
                observer(chosen == 1)
            return mix_integers(chosen, self.precise(x), z_approx)
        mask = self._choose(scores, select_essential).movedim(-1, self.channel_axis)
        if observer is not None:
            observer(mask)
        return mix(mask, self.precise(x), z_approx)

    def _choose(
        self, z_approx: Float[Tensor, "batch *position channels"], select: Callable[..., Tensor]
    ) -> Shaped[Tensor, "batch *position channels"]:
        """Which neurons are kept precise, in the representation of `select`.

        With `target="random"` the choice is a draw of as many neurons, whatever their size. Each image has
        its own; while the noise is held, all images see the same.
        """
        if self.injection.target != "random":
            return select(z_approx, self.injection, self.threshold)

        def make(stream: NoiseStream) -> Tensor:
            shape = (1, *z_approx.shape[1:]) if stream.held else z_approx.shape
            generator = stream.generator_on(z_approx.device)
            return select(torch.rand(shape, generator=generator, device=z_approx.device), self.injection)

        chosen = self.noise_stream.draw(self, make, f"neurons {tuple(z_approx.shape[1:])}")
        if chosen.dtype != torch.bool:  # integers of the width of what they choose from
            chosen = chosen.to(INTEGERS[z_approx.dtype])
        return chosen.expand(z_approx.shape)

    @contextmanager
    def as_dense(self) -> Iterator[None]:
        """The layer without noise, for teacher activations."""
        before, self.is_dense = self.is_dense, True
        try:
            yield
        finally:
            self.is_dense = before

    def _is_calibrated(self) -> bool:
        """Whether there is a threshold; looked at once for each value that it gets: a GPU is waited for."""
        version = self.threshold.data_ptr(), self.threshold._version
        if self._looked_at is None or self._looked_at[0] != version:
            self._looked_at = version, not bool(torch.isnan(self.threshold))
        return self._looked_at[1]

    def change_injection(self, **changes: Any) -> None:
        """Replace fields of the configuration; a calibrated threshold does not outlive its ratio."""
        self.injection = dataclasses.replace(self.injection, **changes)
        self._give_or_take_stream()
        if {"ratio", "pattern", "score", "target"} & changes.keys():
            self.threshold.fill_(float("nan"))

    @staticmethod
    def _in_type_of(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """The float32 parameters of the approximation for a model of another precision."""
        return (
            (weight, bias)
            if torch.is_autocast_enabled(x.device.type)
            else (weight.to(x.dtype), bias.to(x.dtype))
        )

    def _draw(self) -> tuple[int, tuple[Tensor, Tensor] | None]:
        """Which projection to use and how to dither its rounding; from the noise stream if random."""
        if self.injection.randomize == "fixed":
            return 0, None
        return self.noise_stream.draw(self, self._make_draw)

    def _make_draw(self, stream: NoiseStream) -> tuple[int, tuple[Tensor, Tensor] | None]:
        """A fresh draw from `stream`."""
        if self.injection.randomize == "bank":
            return int(torch.randint(self.injection.bank_size, (), generator=stream.generator)), None
        weight, bias = (torch.rand(p.shape[1:], generator=stream.generator).to(p.device)
                        for p in (self.approx_weight, self.approx_bias))  # fmt: skip
        return 0, (weight, bias)

    def rounded_parameters(
        self, index: int, dither: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """W~ (n x k) and b~ (n) of one projection as the forward pass uses them."""
        weight, bias = self.approx_weight[index], self.approx_bias[index]
        weight_dither, bias_dither = dither if dither is not None else (None, None)
        bits = self.injection.bits
        weight = fixed_point(weight, self.weight_exponent[index], bits, weight_dither)
        return weight, fixed_point(bias, self.bias_exponent[index].squeeze(), bits, bias_dither)

    def _folded(self, index: int, dither: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        """W~ P in the shape of the dense weight, and b~; kept between calls while nothing has changed.

        Changes are noticed by the tensors' version counters, and on the CPU by their values. On an
        accelerator, where comparing values would wait for it, a write through `.data` goes unnoticed until
        the module's mode is set again (`train()`, `eval()`).
        """
        trains = torch.is_grad_enabled() and (
            self.approx_weight.requires_grad or self.approx_bias.requires_grad
        )
        parameters = [
            self.approx_weight,
            self.approx_bias,
            self.weight_exponent,
            self.bias_exponent,
            self.signs,
        ]
        # replicas of `DataParallel` share this dictionary and may reuse each other's memory
        may_keep = not trains and dither is None and not getattr(self, "_is_replica", False)
        version = [(t.data_ptr(), t._version) for t in parameters], self.weight.stride()
        if may_keep and index in self._kernels:
            known_version, known_values, folded = self._kernels[index]
            if version == known_version and known_values == _values(parameters):
                return folded
        weight, bias = self.rounded_parameters(index, dither)
        grouped = weight.reshape(self.groups, -1, self.rank)
        # The sum of +-W~ is formed first and scaled last: with fixed-point W~ it is then exact. Autocast
        # would round it to 16 bits.
        with torch.autocast(weight.device.type, enabled=False):
            kernel = torch.bmm(grouped, self.signs[index].to(weight.dtype)) * projection_scale(self.rank)
        kernel = kernel.reshape(self.weight.shape)
        if kernel.dim() == 4 and self.weight.is_contiguous(memory_format=torch.channels_last):
            kernel = kernel.contiguous(memory_format=torch.channels_last)
        if may_keep and not torch.is_inference_mode_enabled():
            self._kernels[index] = version, _values(parameters), (kernel, bias)
        return kernel, bias

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        """As every module does, but say which settings do not fit instead of naming the shapes of buffers."""
        for buffer, fields in (("signs", "projection_ratio, randomize or bank_size"),
                               ("weight_exponent", "scale")):  # fmt: skip
            saved, own = state_dict.get(prefix + buffer), getattr(self, buffer)
            if saved is not None and saved.shape != own.shape:
                raise InputError(
                    f"the state of layer {self.layer_name!r} is of a model injected with another {fields} "
                    f"({buffer} {tuple(saved.shape)}, here {tuple(own.shape)}), or of another layer; "
                    "inject with the settings that it was saved with"
                )
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def train(self, mode: bool = True) -> "NoisyLayer":
        """Set the mode as every module does, and forget kernels kept for the other parameters."""
        if "_kernels" in self.__dict__:
            self._kernels.clear()
        return super().train(mode)


class NoisyConv2d(NoisyLayer, nn.Conv2d):
    """A noise-injected `nn.Conv2d`; any stride, padding, padding mode, dilation and groups."""

    channel_axis = 1

    def __init__(self, dense: nn.Conv2d, injection: Injection, name: str) -> None:
        geometry: dict[str, Any] = {
            name: getattr(dense, name)
            for name in ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
        }
        has_bias = dense.bias is not None
        nn.Conv2d.__init__(
            self, dense.in_channels, dense.out_channels, bias=has_bias, device="meta", **geometry
        )
        self.weight, self.bias = dense.weight, dense.bias
        self.train(dense.training)
        self._build_approximation(injection, name)

    def forward(self, x: Tensor) -> Tensor:
        """z' for a batch, or for one image without a batch axis as `nn.Conv2d` allows."""
        return super().forward(x.unsqueeze(0)).squeeze(0) if x.dim() == 3 else super().forward(x)

    def _affine(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return self._conv_forward(x, weight, bias)

    def _mix(self, projected: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.conv2d(projected, weight[..., None, None], bias, groups=self.groups)


class NoisyLinear(NoisyLayer, nn.Linear):
    """A noise-injected `nn.Linear`, for networks that have them inside; the paper leaves them alone."""

    channel_axis = -1

    def __init__(self, dense: nn.Linear, injection: Injection, name: str) -> None:
        nn.Linear.__init__(self, dense.in_features, dense.out_features, dense.bias is not None, device="meta")
        self.weight, self.bias = dense.weight, dense.bias
        self.groups = 1
        self.train(dense.training)
        self._build_approximation(injection, name)

    def forward(self, x: Tensor) -> Tensor:
        """z' for a batch, or for one sample without a batch axis as `nn.Linear` allows."""
        return super().forward(x.unsqueeze(0)).squeeze(0) if x.dim() == 1 else super().forward(x)

    def _affine(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)

    def _mix(self, projected: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.linear(projected, weight, bias)
