"""The attacks against the libraries as one would call them, on one model and the same images.

    python -m benchmarks.attack_protocols --images 540

"Plain" is the library alone: all images, in batches, also those that are misclassified already; the weights
ask for gradients, as trained weights do. "Ours" is `evaluate`. Robust accuracies should agree within 0.3
points, and image by image where there is no random start.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from torch import Tensor, nn

from benchmarks.timing import machine, markdown_table, write_json
from nenni_core.attacks import AttackSpec
from nenni_core.attacks.auto_pgd import target_ranks
from nenni_core.attacks.untouched import seeded_global_generators
from nenni_core.chain.artifacts import Split, load_model, load_prepared
from nenni_core.chain.runtime import Runtime
from nenni_core.device import configure_torch
from nenni_core.evaluation import evaluate
from pipeline.command_line import new_app, progress_display, silence_telemetry, user_errors
from pipeline.experiment import ExperimentSet, load_parameters
from pipeline.runner import ensure, plan
from pipeline.store import Store

Plain = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""(model, images in [0, 1], labels) to adversarial images."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One attack, by a library and by us."""

    library: str
    plain: Plain
    ours: AttackSpec
    in_paper: bool = True
    """Whether it is one of the paper's protocol, of which the sum is shown."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one pair took, and what it left standing."""

    pair: Pair
    plain_s: float
    ours_s: float
    plain_right: Tensor
    ours_right: Tensor
    forwards: int
    backwards: int


def pairs(eps: float, num_classes: int) -> list[Pair]:
    """Every attack that a library has too; `eps` is the radius, a step is a quarter of it."""
    import torchattacks
    from foolbox import PyTorchModel
    from foolbox.attacks import LinfPGD
    from pyautoattack import AutoAttack

    step, torchs = eps / 4, "torchattacks"
    centred: dict[str, Any] = {"eps": eps, "step_size": step, "random_start": False}

    def by_foolbox(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        attack = LinfPGD(abs_stepsize=step, steps=20, random_start=False)
        bounded = PyTorchModel(model, bounds=(0, 1), device=x.device)
        return attack(bounded, x, y, epsilons=eps)[1]

    def by_its_authors(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        attack = AutoAttack(model, eps=eps, norm="Linf", seed=0, device=x.device)
        targets = len(target_ranks(num_classes))
        attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = targets
        return attack.run_standard_evaluation(x, y, batch_size=len(x))[0]

    def of(name: str, **knobs: Any) -> Plain:
        return lambda model, x, y: getattr(torchattacks, name)(model, **knobs)(x, y)

    return [
        Pair(library=torchs, plain=of("FGSM", eps=eps), ours=AttackSpec(name="fgsm", kind="fgsm", eps=eps)),
        Pair(
            library=torchs,
            plain=of("MIFGSM", eps=eps, alpha=step, steps=5, decay=1.0),
            ours=AttackSpec(name="mifgsm", kind="mifgsm", eps=eps, step_size=step, steps=5),
        ),
        Pair(
            library=torchs,
            plain=of("PGD", eps=eps, alpha=step, steps=20),
            ours=AttackSpec(name="pgd20", kind="pgd", eps=eps, step_size=step, steps=20),
        ),
        Pair(
            library="foolbox",
            plain=by_foolbox,
            ours=AttackSpec(name="pgd20_centred", kind="pgd", steps=20, **centred),
            in_paper=False,
        ),
        Pair(
            library=torchs,
            plain=of("CW", c=1e-4, kappa=0, steps=1000, lr=0.01),
            ours=AttackSpec(name="cw_l2", kind="cw", steps=1000),
        ),
        Pair(
            library=torchs,
            plain=of("DeepFool", steps=50, overshoot=0.02),
            ours=AttackSpec(name="deepfool", kind="deepfool", steps=50),
        ),
        Pair(
            library=torchs,
            plain=of("AutoAttack", eps=eps, n_classes=num_classes, seed=0),
            ours=AttackSpec(name="autoattack_torchattacks", kind="autoattack_torchattacks", eps=eps),
        ),
        Pair(
            library="pyautoattack",
            plain=by_its_authors,
            ours=AttackSpec(name="autoattack_standard", kind="autoattack_standard", eps=eps),
            in_paper=False,
        ),
    ]


def measure(
    pair: Pair, model: nn.Module, test: Split, *, num_classes: int, plain_batch: int, batch: int
) -> Measured:
    """Run both, one right after the other; `model` is left as it was."""
    device = next(model.parameters()).device
    trained = [parameter.requires_grad for parameter in model.parameters()]
    model.eval().requires_grad_(True)
    plain_right, started = [], perf_counter()
    with seeded_global_generators(0, device):
        for images, labels in zip(
            test.images.split(plain_batch), test.labels.split(plain_batch), strict=True
        ):
            x, y = images.to(device).float().div(255), labels.to(device)
            x_adv = pair.plain(model, x, y)
            with torch.no_grad():
                plain_right.append((model(x_adv).argmax(1) == y).cpu())
    plain_s = perf_counter() - started
    for parameter, flag in zip(model.parameters(), trained, strict=True):
        parameter.requires_grad_(flag)
        parameter.grad = None

    started = perf_counter()
    found = evaluate(
        model,
        test.images,
        test.labels,
        [pair.ours],
        num_classes=num_classes,
        batch_size=batch,
        keep_examples=0,
    )
    outcome = found.attacks[pair.ours.name]
    return Measured(
        pair=pair,
        plain_s=plain_s,
        ours_s=perf_counter() - started,
        plain_right=torch.cat(plain_right),
        ours_right=outcome.correct,
        forwards=outcome.forwards,
        backwards=outcome.backwards,
    )


def table(measured: Sequence[Measured]) -> str:
    """Markdown: accuracies, images that differ, seconds and how many times faster; the paper's in all."""
    rows = [
        [
            one.pair.ours.name,
            one.pair.library,
            *(f"{100 * right.float().mean():.1f}" for right in (one.plain_right, one.ours_right)),
            str(int((one.plain_right != one.ours_right).sum())),
            *_times(one.plain_s, one.ours_s),
        ]
        for one in measured
    ]
    paper = [one for one in measured if one.pair.in_paper]
    sums = _times(sum(one.plain_s for one in paper), sum(one.ours_s for one in paper))
    rows.append(["paper protocol", "", "", "", "", *sums])
    columns = ["attack", "library", "plain %", "ours %", "differ", "plain s", "ours s", "times faster"]
    return markdown_table(columns, rows)


def _times(plain_s: float, ours_s: float) -> list[str]:
    return [f"{plain_s:.1f}", f"{ours_s:.1f}", f"{plain_s / ours_s:.2f}"]


def record(one: Measured) -> dict[str, Any]:
    """The measurement as JSON types."""
    return {
        "attack": one.pair.ours.name,
        "library": one.pair.library,
        "plain_accuracy": float(one.plain_right.float().mean()),
        "ours_accuracy": float(one.ours_right.float().mean()),
        "images_that_differ": int((one.plain_right != one.ours_right).sum()),
        "plain_s": one.plain_s,
        "ours_s": one.ours_s,
        "ours_forwards": one.forwards,
        "ours_backwards": one.backwards,
    }


app = new_app("Compare robust accuracy and time with torchattacks, foolbox and pyautoattack.")


@app.command()
def main(
    params: Annotated[Path, typer.Option(help="Whose dense teacher is attacked.")] = Path("params.yaml"),
    store: Annotated[Path, typer.Option(help="Where it is, or is trained into.")] = Path("store"),
    images: Annotated[int | None, typer.Option(help="Test images, class-balanced.", min=1)] = None,
    plain_batch: Annotated[int, typer.Option(help="Images in a batch of the libraries.", min=1)] = 128,
    batch: Annotated[int, typer.Option(help="Images in a batch of ours.", min=1)] = 512,
    threads: Annotated[int | None, typer.Option(help="CPU threads of PyTorch.", min=1)] = None,
    attacks: Annotated[list[str] | None, typer.Option("--attack", help="Only these; repeat it.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the measurements to this JSON file.")] = None,
) -> None:
    """Compare robust accuracy and time with torchattacks, foolbox and pyautoattack."""
    silence_telemetry()
    console = Console(width=140)
    with user_errors(ExperimentSet, params):
        device = "cuda" if torch.cuda.is_available() else "cpu"
        configure_torch(threads, device)
        planned = plan(load_parameters(params).experiments())[0]
        with progress_display() as progress:
            runtime = Runtime(device=device, progress=progress)
            places = {
                stage: ensure(stage, planned, store=Store(store), runtime=runtime).path
                for stage in ("prepare", "pretrain")
            }
        data = load_prepared(places["prepare"])
        test = data.test.limited(images, 0)
        model = load_model(places["pretrain"], "best.safetensors", device=device)
        eps = planned.experiment.pretrain.eps
        measured = []
        for pair in pairs(eps, data.num_classes):
            if attacks and pair.ours.name not in attacks:
                continue
            console.print(f"[dim]{pair.ours.name} ...[/dim]", highlight=False)
            measured.append(
                measure(pair, model, test, num_classes=data.num_classes, plain_batch=plain_batch, batch=batch)
            )
    title = f"{planned.experiment.pretrain.model} on {planned.experiment.prepare.dataset}"
    console.print(f"\n{title}, {len(test.labels)} images, radius {255 * eps:.0f}/255", highlight=False)
    console.print(table(measured), highlight=False, markup=False)
    console.print(machine(), highlight=False)
    if out is not None:
        write_json(out, {"images": len(test.labels), "eps": eps, "pairs": [record(one) for one in measured]})


if __name__ == "__main__":
    app()
