"""One way to run every attack, which closes the traps of the libraries behind it.

What an attack could do to its surroundings and does not do here: reseed or advance the global random
generators; leave batch norms in another mode; write into parameter gradients; fail inside `no_grad`; read
the device of the model at the wrong time; take images outside [0, 1] for pixels; return images outside the
ball that it was given.
"""

from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor, nn

from nenni_core.attacks.dropping import in_turn
from nenni_core.attacks.kinds import attack_kind, check_classes, check_kind_of_model
from nenni_core.attacks.setting import BALL_TOLERANCE, Perturb, Setting
from nenni_core.attacks.spec import AttackSpec
from nenni_core.attacks.untouched import frozen_for_evaluation, full_precision, seeded_global_generators
from nenni_core.errors import InputError
from nenni_core.inject import gradient_mode
from nenni_core.randomness import held_noise, noise_streams, set_noise


class AttackError(RuntimeError):
    """An attack broke its contract; the message names the attack and by how much."""


@dataclass
class AttackCost:
    """What attacks have spent so far, in samples, as the field counts it; add up over batches."""

    forwards: int = 0
    """Samples that went through the model."""
    backwards: int = 0
    """Samples whose input gradient was computed."""
    # Sums that stay on the model's device: reading them after each step would stall an accelerator.
    _zero_gradients: Tensor | int = 0
    _broken_gradients: Tensor | int = 0

    @property
    def zero_gradients(self) -> int:
        """Samples, counted once per backward pass, whose whole input gradient was exactly zero."""
        return int(self._zero_gradients)

    @property
    def broken_gradients(self) -> int:
        """Samples, counted likewise, with a NaN or infinite input gradient."""
        return int(self._broken_gradients)

    def add(self, other: "AttackCost") -> None:
        """Add what another attack has spent."""
        self.forwards += other.forwards
        self.backwards += other.backwards
        self._zero_gradients += other._zero_gradients
        self._broken_gradients += other._broken_gradients


class _Victim(nn.Module):
    """The model as an attack sees it: it checks logits, counts passes, and has a parameter to find it by."""

    def __init__(
        self,
        model: nn.Module,
        num_classes: int,
        like: Tensor,
        cost: AttackCost,
        *,
        divides: bool,
        noise_seed: int | None = None,
    ) -> None:
        super().__init__()
        # Libraries ask the first parameter for the device, also of a model that has none.
        self.device_marker = nn.Parameter(torch.empty(0, device=like.device), requires_grad=False)
        self.layout = memory_layout(like)
        self.model = model
        self.num_classes = num_classes
        self.cost = cost
        self.divides_by_gradient = divides
        self.noise_seed = noise_seed

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the model; `InputError` if they are not one row of `num_classes` per image."""
        self.cost.forwards += len(x)
        if x.requires_grad and torch.is_grad_enabled():
            x = x.view_as(x)  # a node of this pass only: a hook on the leaf would outlive it
            x.register_hook(self._on_gradient)
        with ExitStack() as around:
            # A model that draws from the global generators: always one draw. It is one per place in the batch
            # where the noise is drawn for each image.
            if self.noise_seed is not None:
                around.enter_context(seeded_global_generators(self.noise_seed, x.device))
            logits = self.model(x.contiguous(memory_format=self.layout))
        check_logits_shape(logits, len(x), self.num_classes)
        if x.requires_grad and not logits.requires_grad:
            # Blocked gradients on every path: the derivative is zero, which autograd calls an error.
            logits = logits + 0 * x.flatten(1).sum(dim=1, keepdim=True)
        return logits

    def _on_gradient(self, gradient: Tensor) -> Tensor | None:
        self.cost.backwards += len(gradient)
        largest = gradient.abs().amax(dim=(1, 2, 3), keepdim=True)
        self.cost._zero_gradients += (largest == 0).sum()
        self.cost._broken_gradients += (~largest.isfinite()).sum()
        if not self.divides_by_gradient:
            return None
        # gradient / mean|gradient| is 0/0 for a sample without gradient. PyTorch's sign(NaN) is 0 and the
        # momentum stays NaN, so the sample would silently never move again. The formula says nothing
        # there; a random direction loses nothing and may find a gradient.
        random_signs = torch.rand_like(gradient).sub_(0.5).sign_()
        return torch.where(largest == 0, random_signs, gradient)


def memory_layout(x: Tensor) -> torch.memory_format:
    """Channels-last if that is how `x` lies in memory. Libraries flatten images by views, which then fail."""
    is_last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if is_last and not x.is_contiguous() else torch.contiguous_format


def check_logits_shape(logits: Tensor, images: int, num_classes: int) -> None:
    """`InputError` unless `logits` has one row per image and one column per class."""
    if tuple(logits.shape) != (images, num_classes):
        raise InputError(
            f"the model returned logits of shape {tuple(logits.shape)} for {images} images, "
            f"expected ({images}, {num_classes})"
        )


def model_device(model: nn.Module, default: torch.device) -> torch.device:
    """Where the model's first parameter or buffer lies; `default` for a model that has neither."""
    tensors = [*model.parameters(), *model.buffers()]
    return tensors[0].device if tensors else default


def _check_inputs(spec: AttackSpec, model: nn.Module, x: Tensor, y: Tensor, num_classes: int) -> None:
    if not x.is_floating_point():
        raise InputError(
            f"attack {spec.name}: images are {x.dtype}, expected floating point pixels in [0, 1] "
            "(divide uint8 by 255)"
        )
    if len(x) == 0:
        return
    low, high = float(x.min()), float(x.max())
    if not (low >= 0 and high <= 1):  # written so that NaN fails too
        raise InputError(
            f"attack {spec.name}: pixels lie in [{low:g}, {high:g}], expected [0, 1]; "
            "normalisation belongs inside the model"
        )
    if int(y.min()) < 0 or int(y.max()) >= num_classes:
        raise InputError(
            f"attack {spec.name}: labels lie in [{int(y.min())}, {int(y.max())}], "
            f"expected [0, {num_classes - 1}]"
        )
    check_classes(spec, num_classes)
    device = model_device(model, x.device)
    if x.device != device or y.device != device:
        raise InputError(
            f"attack {spec.name}: images are on {x.device} and labels on {y.device}, the model is on {device}"
        )


def _check_result(
    spec: AttackSpec, norm: Literal["linf"] | None, x: Tensor, x_adv: Tensor, spent: AttackCost
) -> None:
    if spent.broken_gradients:
        # Not left to the pixels to show: the sign of NaN is 0, so the attack would just have given up.
        raise AttackError(
            f"attack {spec.name}: {spent.broken_gradients} of {spent.backwards} input gradients are NaN or "
            "infinite; the model cannot be attacked by gradients as it is"
        )
    if x_adv.shape != x.shape or x_adv.dtype != x.dtype:
        raise AttackError(
            f"attack {spec.name} returned {x_adv.dtype} {tuple(x_adv.shape)}, "
            f"expected {x.dtype} {tuple(x.shape)}"
        )
    broken = int((~x_adv.isfinite()).flatten(1).any(dim=1).sum())
    if broken:
        raise AttackError(f"attack {spec.name} returned NaN pixels in {broken} of {len(x)} images")
    outside = max(0.0, -float(x_adv.min()), float(x_adv.max()) - 1)
    if outside > 0:
        raise AttackError(f"attack {spec.name} left the pixel range [0, 1] by {outside:g}")
    if norm == "linf":
        excess = float((x_adv - x).abs().max()) - spec.eps
        if excess > BALL_TOLERANCE:
            raise AttackError(f"attack {spec.name} left the linf ball of radius {spec.eps:g} by {excess:g}")


def run_attack(
    spec: AttackSpec,
    model: nn.Module,
    x: Num[Tensor, "batch channels height width"],
    y: Int[Tensor, "batch"],
    *,
    seed: int,
    num_classes: int,
    cost: AttackCost | None = None,
    surrogate: nn.Module | None = None,
    random: bool | None = None,
) -> Float[Tensor, "batch channels height width"]:
    """Adversarial images for `x` (pixels in [0, 1], labels `y`), attacked under `spec`.

    The model is in evaluation mode while it is attacked, with the gradient that `spec.gradient` names. A
    random model shows the attack one noise draw (stream "attack" under `seed`), as a defence that is
    randomised per query is evaluated by Random Projection Filters (Dong & Xu 2023), or with
    `spec.eot_samples` above 1 a fresh one in each pass, over which the attack averages. Whether a model is
    `random` is told by its noise streams; one that draws from the global generators has to be said to be.
    `surrogate` is the network that an attack of the kind "transfer" is made on. `seed` also decides the
    random start, of the whole batch at once: the start of one sample depends on its place in the batch.
    Afterwards the model and all global random state are as before, whatever happened.

    `cost`, if given, is added to. The attack is not trusted: the result is checked to be finite, inside
    [0, 1] exactly and inside the eps ball within `BALL_TOLERANCE`.

    Raises `InputError` for images that are not floating point in [0, 1], labels outside the classes, fewer
    classes than the attack needs, a device other than the model's and logits of a wrong shape; `AttackError`
    for gradients that are not finite and for a result that breaks the contract.
    """
    kind = attack_kind(spec)
    _check_inputs(spec, model, x, y, num_classes)
    if len(x) == 0:
        return x.clone()
    spent, on_surrogate = AttackCost(), AttackCost()
    with ExitStack() as around:
        around.enter_context(torch.inference_mode(False))  # also switches gradients on inside `no_grad`
        around.enter_context(full_precision(x.device))
        around.enter_context(frozen_for_evaluation(model))
        around.enter_context(gradient_mode(model, spec.gradient))
        around.enter_context(seeded_global_generators(seed, x.device))
        streams = noise_streams(model)
        random = bool(streams) if random is None else random
        check_kind_of_model(spec, random=random)
        setting = Setting(
            num_classes=num_classes, seed=seed, random=random, draws=spec.eot_samples if random else 1
        )
        if surrogate is not None:
            around.enter_context(frozen_for_evaluation(surrogate))
            imitation = _Victim(surrogate, num_classes, x, on_surrogate, divides=False).eval()
            setting = replace(setting, surrogate=imitation)
        if random:
            set_noise(model, "attack", seed)
            if setting.draws == 1:
                around.enter_context(held_noise(model))
        repeated = seed if random and setting.draws == 1 and not streams else None

        def victim(*, divides: bool) -> nn.Module:
            return _Victim(model, num_classes, x, spent, divides=divides, noise_seed=repeated).eval()

        def build(part: AttackSpec) -> Perturb:
            made_by = attack_kind(part)
            assert made_by.build is not None, f"{part.kind!r} has parts that have parts"
            return made_by.build(victim(divides=made_by.divides_by_gradient), part, setting)

        parts = kind.parts(spec, num_classes) if setting.draws == 1 else ()
        perturb = in_turn(victim(divides=False), map(build, parts), random=random) if parts else build(spec)
        # Clones: an attack may write into its inputs, and inference tensors carry no gradient.
        plain = x.detach().clone(memory_format=torch.contiguous_format)
        x_adv = perturb(plain, y.long().clone()).detach().contiguous(memory_format=memory_layout(x))
    _check_result(spec, kind.norm, x, x_adv, spent)
    # that the surrogate's gradients are zero, or not, says nothing about the model
    spent.forwards += on_surrogate.forwards
    spent.backwards += on_surrogate.backwards
    if cost is not None:
        cost.add(spent)
    return x_adv
