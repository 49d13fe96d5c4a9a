"""What noise injection costs in PyTorch: injected networks against the dense one, in one run.

    python -m benchmarks.injected_network --model small_resnet --batch 128

(The accelerator that the method is meant for computes essential neurons only; a CPU computes both paths
and pays for the selection on top. This is about training and attacking in reasonable time.)
"""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
import typer
from rich.console import Console
from rich.progress import Progress, TaskID
from torch import Tensor, nn

from benchmarks.timing import interleave, machine, markdown_table, timing_record, write_json
from nenni_core import Injection, calibrate, inject, injected_layers
from nenni_core.allocation import keep_freed_memory
from nenni_core.layers import NoisyLayer
from nenni_core.models import build_model
from nenni_core.projection import projection_matrix
from nenni_core.training.loop import lay_out_channels_last
from pipeline.command_line import new_app, user_errors

RATIO = 0.9


class NaiveLayer(nn.Module):
    """The layer as one would first write it: P as a convolution, W~ as another, `kthvalue`, two products."""

    def __init__(self, layer: NoisyLayer) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """z' of the layer's configuration; for a top-k ratio and straight-through gradients only."""
        layer = self.layer
        z = layer.precise(x)
        weight, bias = layer.rounded_parameters(0)
        P = projection_matrix(layer.signs[0]).flatten(0, 1).reshape(-1, *layer.weight.shape[1:])
        y = layer._affine(x, P, None)
        z_approx = F.conv2d(y, weight[..., None, None], bias, groups=layer.groups)
        score = z_approx.detach().abs().flatten(1)
        kept = layer.injection.kept(score.shape[1])
        threshold = score.kthvalue(score.shape[1] - kept + 1, dim=1).values
        mask = (score >= threshold[:, None]).reshape(z.shape).to(z.dtype)
        return z * mask + z_approx * (1 - mask)


def naive(model: nn.Module) -> nn.Module:
    """A copy of an injected model with naive layers."""
    model = copy.deepcopy(model)
    for name, layer in injected_layers(model).items():
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, NaiveLayer(layer))
    return model


def cases(dense: nn.Module, x: Tensor) -> dict[str, nn.Module]:
    """The networks to compare, the dense one first; all from the same weights."""
    plain = inject(dense, Injection(ratio=RATIO))
    streaming = inject(dense, Injection(ratio=RATIO, selection="threshold"))
    calibrate(streaming, [x])
    return {
        "dense": dense,
        "naive, ratio 0.9": naive(plain),
        "ratio 0.9": plain,
        "ratio 0.9, gradient blocked": inject(dense, Injection(ratio=RATIO, gradient="blocked")),
        "ratio 0.9, calibrated threshold": streaming,
        "pattern 7:8": inject(dense, Injection(ratio=None, pattern="7:8")),
        "pattern 4:8": inject(dense, Injection(ratio=None, pattern="4:8")),
    }


def forward(model: nn.Module, x: Tensor) -> Callable[[], Tensor]:
    """One pass without gradients."""

    @torch.no_grad()
    def run() -> Tensor:
        return model(x)

    return run


def forward_backward(model: nn.Module, x: Tensor) -> Callable[[], Tensor]:
    """The gradient with respect to the images, as an attack needs it."""

    def run() -> Tensor:
        leaf = x.detach().requires_grad_()
        return torch.autograd.grad(model(leaf).logsumexp(1).sum(), leaf)[0]

    return run


app = new_app("Compare injected forward and forward + backward passes with the dense network's.")


@app.command()
@user_errors()
def main(
    model: Annotated[str, typer.Option(help="Network, a key of nenni_core.models.MODELS.")] = "small_resnet",
    batch: Annotated[int, typer.Option(help="Images in a batch.", min=1)] = 128,
    image_size: Annotated[int, typer.Option(help="Height and width in pixels.", min=8, max=64)] = 32,
    rounds: Annotated[int, typer.Option(help="Rounds; every round runs every case.", min=1)] = 15,
    out: Annotated[Path | None, typer.Option(help="Write the measurements to this JSON file.")] = None,
) -> None:
    """Compare injected forward and forward + backward passes with the dense network's."""
    keep_freed_memory()  # as all commands of the pipeline do
    console = Console()
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(batch, 3, image_size, image_size, generator=generator)
    x = x.contiguous(memory_format=torch.channels_last)
    dense = build_model(model, num_classes=10, image_size=image_size).eval().requires_grad_(False)
    lay_out_channels_last(dense)
    networks = cases(dense, x)
    with torch.no_grad():
        difference = (networks["naive, ratio 0.9"](x) - networks["ratio 0.9"](x)).abs().max().item()
    measured: dict[str, object] = {"model": model, "batch": batch, "largest_difference_to_naive": difference}
    with Progress(console=console, transient=True) as progress:
        for title, operation in (("forward", forward), ("forward + backward", forward_backward)):
            task = progress.add_task(title, total=rounds)

            def on_round(done: int, _: int, task: TaskID = task) -> None:
                progress.update(task, completed=done)

            runs = {name: operation(network.requires_grad_(False), x) for name, network in networks.items()}
            timings = interleave(runs, rounds=rounds, on_round=on_round)
            base = timings[0]
            rows = [
                [timing.name, f"{1000 * timing.spread_s.median:.1f}", f"{base.speedup_over(timing):.2f}"]
                for timing in timings
            ]
            console.print(
                f"\n{title}, {model}, {batch} images of {image_size}x{image_size}",
                highlight=False,
                markup=False,
            )
            console.print(
                markdown_table(["case", "ms", "times dense [quartiles]"], rows), highlight=False, markup=False
            )
            measured[title] = timing_record(timings, "dense")
    console.print(
        f"\nlargest difference between the naive and our outputs: {difference:.2g}", highlight=False
    )
    console.print(machine(), highlight=False)
    if out is not None:
        write_json(out, measured)


if __name__ == "__main__":
    app()
