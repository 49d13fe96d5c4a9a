"""`python -m pipeline.evaluate`: both protocols of attacks on a model of the user's own.

Results go to standard output, and as files into a folder if one is named; what is said on the way goes to
standard error.
"""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from pydantic import Field
from rich.console import Console
from torch import Tensor, nn

from nenni_core.attacks import AttackError, AttackSpec, adaptive_protocol, attack_kind, paper_protocol
from nenni_core.attacks.adapter import model_device
from nenni_core.attacks.kinds import check_classes, check_kind_of_model
from nenni_core.attacks.untouched import frozen_for_evaluation
from nenni_core.chain.artifacts import Split
from nenni_core.chain.attack import MASKING, RESULTS
from nenni_core.chain.runtime import Runtime
from nenni_core.data import fingerprint, load_dataset, to_float
from nenni_core.device import choose_device, configure_torch
from nenni_core.errors import InputError
from nenni_core.evaluation import Evaluation, MaskingVerdict, evaluate, masking_probes, verdict_of
from nenni_core.evaluation.probe import TRIED, is_random
from nenni_core.files import write_json
from nenni_core.progress import ProgressCallback
from pipeline.command_line import new_app, progress_display, say, user_errors
from pipeline.config import DatasetName, Section
from pipeline.evaluation_display import InAll, table_of
from pipeline.networks import NOTHING, Network, find_network, try_out
from pipeline.provenance import code_digest, commit, library_versions
from pipeline.stages.attack import RECORDS
from pipeline.store import SCRATCH
from pipeline.values import Pixels, show_pixels

WIDTH = 110
"""Columns of the table where there is no terminal to ask."""

app = new_app("Attack a model of your own with both protocols; say whether its gradients are masked.")


class Request(Section):
    """What was asked for; all of it can change the result."""

    weights: str | None
    model: str | None
    dataset: DatasetName
    path: str | None
    images: int | None = Field(gt=0)
    protocol: Literal["paper", "adaptive", "both"]
    eps: Pixels
    step_size: Pixels = Field(gt=0)
    unbounded_eps: Pixels = Field(gt=0)
    steps: int = Field(ge=1)
    queries: int = Field(ge=1)
    eot_samples: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    seed: int = Field(ge=0)
    surrogate: str | None

    def attacks(self) -> list[AttackSpec]:
        """The attacks of the protocol, in the order in which they are run."""
        paper = paper_protocol(self.eps, self.step_size)
        probes = masking_probes(self.eps, self.step_size, unbounded_eps=self.unbounded_eps)
        adaptive = adaptive_protocol(
            self.eps,
            step_size=self.step_size,
            steps=self.steps,
            queries=self.queries,
            eot_samples=self.eot_samples,
        )
        protocols = {"paper": paper, "adaptive": adaptive, "both": (*paper, *probes, *adaptive)}
        return list(protocols[self.protocol])


@app.command()
def command(
    dataset: Annotated[str, typer.Option(help="Name of the data set.")],
    weights: Annotated[
        str,
        typer.Argument(help="Weights as a safetensors file, or the folder of a store's entry; - for none."),
    ] = NOTHING,
    model: Annotated[
        str | None,
        typer.Option(help="Name of a network, or package.module:callable; default: as described beside it."),
    ] = None,
    path: Annotated[
        str | None, typer.Option(help="Local archive or folder of it, instead of a download.")
    ] = None,
    images: Annotated[
        str | None, typer.Option(metavar="N", help="Class-balanced limit on the test images; default: all.")
    ] = None,
    protocol: Annotated[str, typer.Option(help="paper, adaptive, or both (with the verdict).")] = "both",
    eps: Annotated[str, typer.Option(metavar="PIXELS", help="Radius of the attacks.")] = "8/255",
    step_size: Annotated[
        str, typer.Option(metavar="PIXELS", help="Step of MI-FGSM and of the PGDs.")
    ] = "2/255",
    unbounded_eps: Annotated[
        str,
        typer.Option(
            metavar="PIXELS", help="Radius that nothing withstands; 128/255 for images of full contrast."
        ),
    ] = "64/255",
    steps: Annotated[str, typer.Option(metavar="N", help="Steps of APGD.")] = "100",
    queries: Annotated[str, typer.Option(metavar="N", help="Queries of Square.")] = "5000",
    eot_samples: Annotated[
        str, typer.Option(metavar="N", help="Random models: draws that the adaptive attacks average over.")
    ] = "20",
    batch_size: Annotated[str, typer.Option(metavar="N", help="Images per attacked batch.")] = "256",
    seed: Annotated[str, typer.Option(metavar="N", help="Of everything that is random.")] = "0",
    surrogate: Annotated[
        str | None,
        typer.Option(help="Weights of another network of the same type, to transfer attacks from."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for results; an interrupted run continues there.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, ..., or auto.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of PyTorch.")] = None,
) -> None:
    """Attack a model of your own with both protocols; say whether its gradients are masked."""
    asked = {name: value for name, value in locals().items() if name in Request.model_fields}
    with user_errors(Request):
        request = Request.model_validate(asked)
        chosen = choose_device(device)
        configure_torch(threads, chosen)
        try:
            run(request, out=out, runtime=Runtime(device=chosen))
        except KeyboardInterrupt:
            if out is not None:
                raise
            say("interrupted; nothing was kept (with --out, what is finished is)")
            raise typer.Exit(130) from None


def run(request: Request, *, out: Path | None, runtime: Runtime) -> Evaluation:
    """Evaluate, print, and write to `out` what was found; progress is shown on a display of its own.

    Raises `InputError` for what the user can mend; a network that attacks cannot work on is among that.
    """
    network = find_network(request.weights, request.model)
    teacher = None if request.surrogate is None else _find_surrogate(request.surrogate, request.model)
    with progress_display() as progress:
        raw = load_dataset(request.dataset, path=request.path, on_progress=progress)
    everything = Split(images=torch.from_numpy(raw.test_images), labels=torch.from_numpy(raw.test_labels))
    # the images that the stage `attack` takes, which depend on nothing but the data
    test = everything.limited(request.images, 0)

    def loaded(found: Network) -> tuple[nn.Module, Tensor]:
        model = found.load(raw.image_shape, raw.num_classes, runtime.device)
        few = to_float(test.images[:TRIED]).to(model_device(model, torch.device(runtime.device)))
        try_out(model, few, raw.num_classes)
        return model, few

    model, few = loaded(network)
    surrogate = None if teacher is None else loaded(teacher)[0]
    if surrogate is not None and not {*model.modules()}.isdisjoint(surrogate.modules()):
        raise InputError(f"model {network.name!r} gives the same network twice; expected a new one per call")
    with frozen_for_evaluation(model):
        random = is_random(model, few)
    specs, notes = applicable(
        request.attacks(), random=random, num_classes=raw.num_classes, surrogate=surrogate is not None
    )
    print(
        f"{network.name} on {len(test.labels)} test images of {raw.name}, eps {show_pixels(request.eps)}, "
        f"seed {request.seed}, {runtime.device}"
    )
    print(*notes, sep="\n", end="\n" if notes else "", flush=True)
    scratch = None
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        scratch = runtime.scratch(out) / code_digest()[:16]  # other code does not continue
    with progress_display() as progress:
        evaluation = _evaluate(
            model,
            test,
            specs,
            num_classes=raw.num_classes,
            batch_size=request.batch_size,
            seed=request.seed,
            surrogate=surrogate,
            on_progress=InAll(progress, specs, images=len(test.labels), random=random),
            resume_dir=scratch,
        )
    verdict = verdict_of(evaluation)
    terminal = Console()
    Console(width=None if terminal.is_terminal else WIDTH, highlight=False).print(table_of(evaluation))
    if verdict is not None:
        print(f"\n{verdict}")
    if out is not None:
        asked = {
            "asked": request.model_dump(mode="json"),
            "network": network.summary(),
            "surrogate": None if teacher is None else teacher.summary(),
            "data_fingerprint": fingerprint(request.dataset, path=request.path),
            "device": runtime.device,
            "notes": notes,
        }
        _write(out, asked, evaluation, verdict)
        say(f"results are in {out}")
    return evaluation


def _write(out: Path, asked: dict[str, Any], evaluation: Evaluation, verdict: MaskingVerdict | None) -> None:
    """The files of a finished evaluation; what it needed to continue goes."""
    import polars  # not at the top: slow, and needed by nothing else

    origin = {
        "threads": torch.get_num_threads(),
        "versions": library_versions(),
        "git_commit": commit().sha,
        "git_dirty": commit().dirty,
        "code": code_digest(),
    }
    write_json(out / RESULTS, evaluation.summary() | asked | origin)
    polars.DataFrame(evaluation.records()).write_parquet(out / RECORDS)
    (out / MASKING).unlink(missing_ok=True)  # of an earlier run with another protocol
    if verdict is not None:
        write_json(out / MASKING, verdict.summary())
    shutil.rmtree(out / SCRATCH, ignore_errors=True)


def _find_surrogate(surrogate: str, model: str | None) -> Network:
    """Weights of the network `model`, or the import path of a network that is ready."""
    if ":" in surrogate and not Path(surrogate).exists():
        return find_network(None, surrogate)
    return find_network(surrogate, model)


def applicable(
    attacks: Sequence[AttackSpec], *, random: bool, num_classes: int, surrogate: bool
) -> tuple[list[AttackSpec], list[str]]:
    """The attacks that are defined for such a model, and a line for each one that is left out.

    Args:
        attacks: in the order in which they are to be run.
        random: whether the model draws noise.
        num_classes: of the data set.
        surrogate: whether there is a network to transfer from.
    """
    kept: list[AttackSpec] = []
    notes: list[str] = []
    for spec in attacks:
        try:
            check_classes(spec, num_classes)
            check_kind_of_model(spec, random=random)
        except InputError as error:
            notes.append(f"Left out: {error}")
            continue
        if attack_kind(spec).needs_surrogate and not surrogate:
            notes.append(
                f"Left out: attack {spec.name}: it is made on another network; --surrogate names one"
            )
            continue
        names = {earlier.name for earlier in kept}
        kept.append(replace(spec, survivors_of=tuple(name for name in spec.survivors_of if name in names)))
    return kept, notes


def _evaluate(
    model: nn.Module,
    test: Split,
    specs: Sequence[AttackSpec],
    *,
    on_progress: ProgressCallback,
    **settings: Any,
) -> Evaluation:
    try:
        return evaluate(model, test.images, test.labels, specs, on_progress=on_progress, **settings)
    except AttackError as error:  # gradients that are not finite, for example
        raise InputError(str(error)) from error


if __name__ == "__main__":
    app()
