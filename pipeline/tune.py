"""Search for ratios by layer: `python -m pipeline.tune --params params.yaml --trials 32`.

Looks for the Pareto front of accuracy under all attacks together against simulated energy x time, from one
trained and distilled network, and writes tables, a figure and a parameter file with the winners.
"""

import os
from pathlib import Path
from typing import Annotated

import typer

from nenni_core.chain.runtime import Runtime
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
from pipeline.locations import absolute_location, store_location
from pipeline.locks import locked_file
from pipeline.ray_session import set_environment
from pipeline.runner import Unobserved, ensure, plan
from pipeline.search import (
    STEPS,
    UNIFORM,
    By,
    SamplerName,
    Search,
    first_with_noise,
    knows_the_defence,
    parse_steps,
    search_for,
)
from pipeline.search_figure import save
from pipeline.search_results import Results, write_tables, write_winners
from pipeline.search_tracking import record
from pipeline.stages.command import Narrator
from pipeline.store import Store, open_store

app = new_app("Search for ratios by layer: accurate under attack, and cheap on the accelerator.")


@app.command()
def search(
    params: Params = Path("params.yaml"),
    trials: Annotated[int, typer.Option(min=0, help="Choices to evaluate beside the uniform ratios.")] = 32,
    images: Annotated[
        int | None,
        typer.Option(min=1, help="Validation images to attack; else as the file says, if there are."),
    ] = None,
    by: Annotated[By, typer.Option(help="Whether each layer has a ratio, or each stage.")] = "layer",
    steps: Annotated[str, typer.Option(help="Ratios to choose from.")] = ",".join(f"{s:g}" for s in STEPS),
    sampler: Annotated[SamplerName, typer.Option(help="How Optuna proposes: TPE, or NSGA-II.")] = "tpe",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the proposals.")] = 0,
    concurrent: Annotated[int, typer.Option(min=1, help="Trials at a time.")] = 1,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads of each trial; else the processors are shared out.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, ..., or auto.")] = "auto",
    out: Annotated[Path, typer.Option(help="Folder of the search; one that is there goes on.")] = Path(
        "search"
    ),
    store: StoreOption = None,
    tracking_uri: TrackingOption = None,
    tracking: Annotated[bool, typer.Option(help="Record the search in MLflow.")] = True,
) -> None:
    """Search for ratios by layer: accurate under attack, and cheap on the accelerator.

    The same command again goes on where this one stopped; with more trials it adds those that are missing.
    """
    silence_telemetry()
    with user_errors(ExperimentSet, params):
        parameters = load_parameters(params)
        opened = open_store(absolute_location(store_location(store, parameters.store)), say)
        chosen = choose_device(device)
        share = threads or max(1, (os.cpu_count() or 1) // concurrent)
        configure_torch(share * concurrent, chosen)
        with locked_file(out / "lock", on_busy=lambda: say(f"waiting: another search works in {str(out)!r}")):
            looked_for = _prepare(parameters, opened, chosen, images=images, steps=parse_steps(steps), by=by)
            set_environment(local=True)
            # takes seconds, and imports Ray
            from pipeline.search_trials import Journal, Resources, results_of, run_trials

            journal = Journal(out, looked_for)
            with progress_display() as progress:
                finished = run_trials(
                    journal,
                    trials,
                    store=opened,
                    resources=Resources(concurrent=concurrent, threads=share, device=chosen),
                    sampler=sampler,
                    seed=seed,
                    progress=progress,
                )
            results = results_of(journal, opened)
            write_tables(results, out)
            if results.scored:
                _write_front(results, params, out)
            if tracking:
                record(parameters.tracking, results, out, uri=tracking_uri)
        if not finished:
            raise KeyboardInterrupt
        if not results.scored:
            say(f"error: every trial has failed, the first one so: {results.trials[0].error}")
            raise typer.Exit(1)


def _prepare(
    parameters: ExperimentSet,
    store: Store,
    device: str,
    *,
    images: int | None,
    steps: tuple[float, ...],
    by: By,
) -> Search:
    """What is looked for, with everything computed that all choices share."""
    first, networks = first_with_noise(parameters)
    if networks > 1:
        say(
            f"the file's lists describe {networks} networks to put noise into; the search is of the first one"
        )
    [planned] = plan([first])
    narrated = Narrator("search", Unobserved())  # says what is computed, not what is there
    with progress_display() as progress:
        runtime = Runtime(device=device, progress=progress)
        prepared = ensure("prepare", planned, store=store, runtime=runtime, observer=narrated)
        uniform = parameters.finetune.ratio or UNIFORM
        looked_for = search_for(first, prepared.path, images=images, uniform=uniform, steps=steps, by=by)
        if not knows_the_defence(looked_for.base.attack):
            say("warning: no attack of the worst case knows the defence; see params.yaml for those that do")
        ensure("distill", plan([looked_for.base])[0], store=store, runtime=runtime, observer=narrated)
    groups, attack = len(looked_for.groups), looked_for.base.attack
    say(
        f"{groups} groups of layers, {len(looked_for.steps)} ratios each; {len(attack.attacks)} attacks on "
        f"{attack.images} validation images"
    )
    return looked_for


def _write_front(results: Results, params: Path, out: Path) -> None:
    """The figure and the winners, and in a few lines what came of the search."""
    figure = save(results, out)
    write_winners(results, params, out)
    summary = results.summary()
    say(
        f"{len(results.scored)} choices have a score, {summary['failed']:.0f} failed; "
        f"{len(results.front)} on the front, {summary['front_searched']:.0f} of them with ratios by layer"
    )
    say(
        f"area that they dominate: {summary['area_all']:.3f}; that the uniform ratios do: "
        f"{summary['area_uniform']:.3f} (worst case x saved energy x time, 0 to 1)"
    )
    say(f"{out / 'trials.csv'}, {figure[0].with_suffix('')}.*, {out / 'winners.yaml'}")


if __name__ == "__main__":
    app()
