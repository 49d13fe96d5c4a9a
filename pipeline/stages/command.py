"""The command line that all stages share: `python -m pipeline.stages.<stage> --params params.yaml`."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from nenni_core.chain.runtime import RecordCallback, Runtime
from nenni_core.device import choose_device, configure_torch
from pipeline.command_line import (
    Params,
    StoreOption,
    TrackingOption,
    new_app,
    progress_display,
    say,
    silence_telemetry,
    user_errors,
)
from pipeline.experiment import ExperimentSet, load_parameters
from pipeline.exports import Folders, Result, export
from pipeline.locations import store_location
from pipeline.provenance import code_digest
from pipeline.runner import Observer, Plan, Unobserved, ensure, plan
from pipeline.store import Entry, Store, open_store
from pipeline.tracking import Tracker


def main(stage: str) -> None:
    """Run the command of one stage."""
    silence_telemetry()
    stage_app(stage)()


def stage_app(stage: str) -> typer.Typer:
    """The command line of one stage."""
    app = new_app(
        f"Compute the stage `{stage}` of every experiment in a parameter file, where it is missing."
    )

    @app.command()
    def command(
        params: Params = Path("params.yaml"),
        outputs: Annotated[Path, typer.Option(help="Folder for entries.json.")] = Path("outputs"),
        metrics: Annotated[Path, typer.Option(help="Folder for metrics that DVC compares.")] = Path(
            "metrics"
        ),
        plots: Annotated[Path, typer.Option(help="Folder for curves that DVC plots.")] = Path("plots"),
        store: StoreOption = None,
        tracking_uri: TrackingOption = None,
        device: Annotated[str, typer.Option(help="cpu, cuda, ..., or auto.")] = "auto",
        threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of PyTorch.")] = None,
        compiled: Annotated[
            bool, typer.Option("--compile", help="torch.compile for training networks without noise.")
        ] = False,
        tracking: Annotated[bool, typer.Option(help="Record the runs in MLflow.")] = True,
        recompute: Annotated[
            bool, typer.Option(help="Compute this stage again although it is stored.")
        ] = False,
    ) -> None:
        with user_errors(ExperimentSet, params):
            chosen = choose_device(device)
            configure_torch(threads, chosen)
            runtime = Runtime(device=chosen, compile=compiled)
            parameters = load_parameters(params)
            run_set(
                stage,
                parameters,
                store=open_store(store_location(store, parameters.store), say),
                folders=Folders(outputs, metrics, plots),
                runtime=runtime,
                tracked=tracking,
                tracking_uri=tracking_uri,
                recompute=recompute,
            )

    return app


def run_set(
    stage: str,
    parameters: ExperimentSet,
    *,
    store: Store,
    folders: Folders,
    runtime: Runtime,
    tracked: bool,
    tracking_uri: str | None = None,
    recompute: bool = False,
) -> list[Result]:
    """Ensure `stage`, and all before it, for every experiment of a set, and write what DVC follows.

    `tracking_uri` is what the command line says of where MLflow is.
    """
    plans = plan(parameters.experiments())
    settings = parameters.tracking
    tracker = Tracker(settings, plans, store=store, report=say, uri=tracking_uri) if tracked else None
    observer = Narrator(stage, tracker or Unobserved())
    concerned = [planned for planned in plans if stage in planned.experiment.stages]
    if recompute:
        for key in {planned.keys[stage] for planned in concerned}:
            with store.locked(stage, key):
                store.discard(stage, key)
    with progress_display() as progress:
        shown = replace(runtime, progress=progress)
        for planned in plans:  # what cannot work is found before anything expensive is computed
            ensure("prepare", planned, store=store, runtime=shown, observer=observer)
        results = [
            Result(planned.experiment, ensure(stage, planned, store=store, runtime=shown, observer=observer))
            for planned in concerned
        ]
    export(stage, results, folders)
    if tracker is not None:
        tracker.close()
    return results


class Narrator:
    """Says in one line what was computed and what was there; passes everything on to another observer."""

    def __init__(self, stage: str, observer: Observer) -> None:
        self._stage = stage
        self._observer = observer
        self._said: set[str] = set()

    @contextmanager
    def computing(self, stage: str, plan: Plan, *, resumed: bool) -> Iterator[RecordCallback]:
        """Pass on."""
        with self._observer.computing(stage, plan, resumed=resumed) as on_record:
            yield on_record

    def finished(self, stage: str, plan: Plan, entry: Entry, *, cached: bool) -> None:
        """Say it once per entry (of earlier stages only what was computed), then pass on."""
        key = plan.keys[stage]
        if key not in self._said and not (cached and stage != self._stage):
            self._said.add(key)
            how = f"computed in {entry.manifest.seconds:.1f} s"
            if cached:
                older = entry.manifest.code != code_digest()
                how = "already there" + (", by other code (--recompute computes it again)" if older else "")
            say(f"{stage} {plan.subject(stage)} {key[:12]}: {how}")
        self._observer.finished(stage, plan, entry, cached=cached)
