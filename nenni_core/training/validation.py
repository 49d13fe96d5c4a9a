"""Clean and robust accuracy on held-out images, comparable from epoch to epoch."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Int, UInt8
from torch import Tensor, nn

from nenni_core.attacks.pgd import pgd
from nenni_core.modes import eval_mode, kept_streams
from nenni_core.randomness import held_noise, make_generator, set_noise
from nenni_core.training.augmentation import pixels
from nenni_core.training.recipe import PRECISIONS, Recipe


def validate(
    model: nn.Module,
    images: UInt8[Tensor, "images channels height width"],
    labels: Int[Tensor, "images"],
    recipe: Recipe,
    *,
    seed: int,
    on_batch: Callable[[], None],
) -> tuple[float, float]:
    """The clean accuracy and the accuracy under PGD with `validation_steps` steps, in [0, 1].

    The model is in eval mode inside and gets its modes back. The random starts and the noise of a random
    model are the same in every call with the same `seed`, so that a difference between two epochs is
    one of the weights; neither the training's streams nor the global one are drawn from. A random model
    shows the attack one draw of its noise and is judged on another.
    """
    generator = make_generator(seed, "validation attack", device=images.device)
    correct = torch.zeros(2, dtype=torch.int64, device=images.device)
    with eval_mode(model), _own_noise(model, "validation", seed), torch.no_grad():
        for start in range(0, len(labels), recipe.batch_size):
            x, y = (
                pixels(images[start : start + recipe.batch_size]),
                labels[start : start + recipe.batch_size],
            )
            with autocast(x.device, recipe):
                with held_noise(model):
                    x_adv = pgd(
                        model,
                        x,
                        y,
                        eps=recipe.eps,
                        step_size=recipe.step_size,
                        steps=recipe.validation_steps,
                        generator=generator,
                    )
                correct += torch.stack([(model(given).argmax(1) == y).sum() for given in (x, x_adv)])
            on_batch()
    clean, robust = (count / len(labels) for count in correct.tolist())
    return clean, robust


def autocast(device: torch.device, recipe: Recipe) -> torch.autocast:
    """The recipe's precision for what runs inside.

    Without autocast's cache of converted weights: an objective may change weights between two forward
    passes of a step, and the attack, which freezes them, would not profit from it.
    """
    dtype = PRECISIONS[recipe.precision]
    return torch.autocast(
        device.type, dtype=torch.bfloat16, enabled=dtype != torch.float32, cache_enabled=False
    )


@contextmanager
def _own_noise(model: nn.Module, name: str, seed: int) -> Iterator[None]:
    """A stream of its own for the random layers inside; they get their former one back."""
    with kept_streams(model):
        set_noise(model, name, seed)
        yield
