"""What each defence costs: in time against adversarial training, and in bit operations.

`python -m benchmarks.defenses` times one training step and one forward pass of every defence side by side,
in interleaved rounds, and prints the ratios to those of plain adversarial training beside the BitOPs of the
network as the defence builds it, noise operations included.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from benchmarks.timing import Timing, interleave, markdown_table, timing_record, write_json
from benchmarks.training_step import step_options
from nenni_core.bitops import bitops
from nenni_core.defenses import DEFENSES, make_defense
from nenni_core.errors import InputError
from nenni_core.models import build_model
from nenni_core.randomness import make_generator
from nenni_core.training import Recipe
from nenni_core.training.loop import lay_out_channels_last, training_step

BASE = "adversarial"


def networks(model: str, image_size: int, device: torch.device) -> dict[str, nn.Module]:
    """The network of every defence that has one of this model, by its name."""
    found = {}
    for kind in DEFENSES:
        defense = make_defense(kind)
        try:
            plain = build_model(defense.architecture(model), num_classes=10, image_size=image_size)
        except InputError:
            continue
        wrapped = defense.wrap(plain, 0, (3, image_size, image_size)).to(device)
        lay_out_channels_last(wrapped)
        found[kind] = wrapped
    return found


def steps_to_compare(
    found: dict[str, nn.Module], x: Tensor, y: Tensor, recipe: Recipe
) -> dict[str, Callable[[], object]]:
    """One training step of each network by its defence, on the same batch."""

    def step_of(kind: str, network: nn.Module) -> Callable[[], object]:
        defense = make_defense(kind)
        optimizer = torch.optim.SGD(defense.parameter_groups(network), lr=0.01, momentum=0.9)
        generator = make_generator(0, "attack", device=x.device)
        return lambda: training_step(
            network.train(),
            optimizer,
            x,
            y,
            recipe=recipe,
            generator=generator,
            defense=defense,
            position=0.5,
        )

    return {kind: step_of(kind, network) for kind, network in found.items()}


def passes_to_compare(found: dict[str, nn.Module], x: Tensor) -> dict[str, Callable[[], object]]:
    """One forward pass of each network in evaluation mode, without gradients."""

    def pass_of(network: nn.Module) -> Callable[[], object]:
        return lambda: torch.no_grad()(network.eval())(x)

    return {kind: pass_of(network) for kind, network in found.items()}


def cost_table(steps: Sequence[Timing], passes: Sequence[Timing], costs: dict[str, float]) -> str:
    """Markdown: per defence the time of a step and of a pass over those of `BASE`, and the BitOPs ratio."""

    def relative(timings: Sequence[Timing]) -> dict[str, str]:
        by_name = {timing.name: timing for timing in timings}
        return {name: f"{by_name[BASE].speedup_over(timing):.2f}" for name, timing in by_name.items()}

    step, forward = relative(steps), relative(passes)
    rows = [[kind, step[kind], forward[kind], f"{costs[kind]:.4f}"] for kind in costs]
    columns = ["defence", "training step, times AT", "forward pass, times dense", "BitOPs / dense"]
    return markdown_table(columns, rows)


def main() -> None:
    arguments = step_options(__doc__, rounds=5).parse_args()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    device, size = torch.device(arguments.device), arguments.image_size
    recipe = Recipe(epochs=1, batch_size=arguments.batch_size, steps=arguments.steps)
    found = networks(arguments.model, size, device)
    costs = {
        kind: cost.total / cost.dense
        for kind, network in found.items()
        for cost in [bitops(network, (3, size, size))]
    }
    generator = make_generator(0, "benchmark")
    x = torch.rand(recipe.batch_size, 3, size, size, generator=generator).to(device)
    x = x.contiguous(memory_format=torch.channels_last)
    y = torch.randint(10, (recipe.batch_size,), generator=generator).to(device)

    def said(what: str) -> Callable[[int, int], None]:
        return lambda done, total: print(f"{what}: round {done} of {total}", flush=True)

    steps = interleave(
        steps_to_compare(found, x, y, recipe), rounds=arguments.rounds, on_round=said("training steps")
    )
    passes = interleave(passes_to_compare(found, x), rounds=arguments.rounds, on_round=said("forward passes"))
    print(
        f"\n{arguments.model}, {size}x{size}, batch {recipe.batch_size}, PGD-{recipe.steps}, {device}; "
        f"median [quartiles] of {arguments.rounds} interleaved rounds\n\n{cost_table(steps, passes, costs)}"
    )
    if arguments.out is not None:
        measured = {
            "model": arguments.model,
            "bitops_ratio": costs,
            "training_step": timing_record(steps, BASE),
            "forward_pass": timing_record(passes, BASE),
        }
        write_json(arguments.out, measured)


if __name__ == "__main__":
    main()
