"""The contract of a defence: how the network is built, what is minimised, how its randomness is drawn."""

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

Batch = Float[Tensor, "batch channels height width"]
Labels = Int[Tensor, "batch"]
LossAndLogits = tuple[Float[Tensor, ""], Float[Tensor, "batch classes"]]


@dataclass(frozen=True, kw_only=True)
class StepContext:
    """What a training step may need beside the batch."""

    eps: float
    """Radius of the training attack (maximum norm) in [0, 1] pixel units."""
    step_size: float
    """Step of the training attack, in the same units."""
    steps: int
    """Steps of the training attack."""
    generator: torch.Generator
    """The stream of the attacks, on the device of the batch."""
    position: float
    """Where the training is, counted in epochs from 0: 1.5 is the middle of the second one."""
    epochs: int
    """Epochs of the whole training."""
    after_step: ExitStack
    """Closed by the loop once the optimiser has stepped, or when the step fails: who changes the weights
    around the step (adversarial weight perturbation) registers here how they are put back."""

    @property
    def epoch(self) -> int:
        """The present epoch, counted from 1, for curricula and warm-ups."""
        return int(self.position) + 1


@dataclass(frozen=True, kw_only=True)
class Defense:
    """A way of making a network robust. The fields of a subclass are its hyperparameters.

    A defence overrides what it does differently: `wrap` how the network is built, `search` the inner
    maximisation, `loss` the outer minimisation, `parameter_groups` who learns how fast. Layers that draw
    noise do so from the `noise_stream` that they carry (`nenni_core.randomness.NoiseStream`), so that the
    training, an attack and the inference can each be given a stream of their own.
    """

    title: ClassVar[str]
    """What a table calls it, with its source."""
    is_random: ClassVar[bool] = False
    """Whether two forward passes of the network differ: its layers draw from their `noise_stream`."""
    starts_trained: ClassVar[bool] = False
    """Whether `wrap` wants a network that is trained already, by the defence that the field `base` names.

    The fields `epochs` and `learning_rate` then say how it is trained on."""

    def architecture(self, name: str) -> str:
        """Which network of `nenni_core.models.MODELS` is built when `name` is asked for."""
        return name

    def __post_init__(self) -> None:
        """Subclasses check their hyperparameters here, and raise `InputError`."""

    @property
    def select_by(self) -> Literal["robust", "clean"]:
        """Which validation accuracy chooses the best epoch."""
        return "robust"

    @property
    def unread(self) -> frozenset[str]:
        """Fields, and "steps" of the training attack, that change nothing beside the values of the others."""
        return frozenset()

    def wrap(self, model: nn.Module, seed: int, image_shape: tuple[int, int, int]) -> nn.Module:
        """The network of this defence, made of `model`, whose modules it may take over.

        Its state dict holds all that `wrap` and training add. What is drawn here (not the noise of forward
        passes) comes from `seed`. `image_shape` is that of one image, (channels, height, width). Raises
        `InputError` for a network that cannot be built so.
        """
        return model

    def search(self, model: nn.Module, x: Batch, y: Labels, context: StepContext) -> Batch:
        """The inner maximisation: the images to train on, within `eps` of `x` and in [0, 1]."""
        raise NotImplementedError(type(self).__name__)

    def loss(
        self, model: nn.Module, x: Batch, x_adv: Batch, y: Labels, context: StepContext
    ) -> LossAndLogits:
        """What is minimised, at the images that `search` gave: mean loss and logits, both float32.

        The logits are those that the training accuracy counts.
        """
        raise NotImplementedError(type(self).__name__)

    def step(self, model: nn.Module, x: Batch, y: Labels, context: StepContext) -> LossAndLogits:
        """The loss of one batch in [0, 1], and logits, for a model in train mode.

        It runs inside the recipe's autocast. Gradients that it leaves on the parameters are dropped before
        the loop calls `backward` on the loss.
        """
        return self.loss(model, x, self.search(model, x, y, context), y, context)

    def maintain(self, model: nn.Module, context: StepContext) -> None:
        """Register on `context.after_step` what keeps the network as `wrap` has promised it.

        Called before every step, also when the network is trained on by another loss.
        """

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """Who is trained, as groups for the optimiser: lists of `params`, with what departs from the recipe.

        That is `weight_decay`; the learning rate is the schedule's for all.
        """
        return groups_by_decay(model, [], 0.0)


def groups_by_decay(
    model: nn.Module, special: Iterable[nn.Parameter], weight_decay: float
) -> list[dict[str, Any]]:
    """Parameter groups: the recipe's weight decay for all that is trained, `weight_decay` for `special`."""
    apart = {id(parameter) for parameter in special}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [parameter for parameter in trained if id(parameter) not in apart]},
        {
            "params": [parameter for parameter in trained if id(parameter) in apart],
            "weight_decay": weight_decay,
        },
    ]
    return [group for group in groups if group["params"]]
