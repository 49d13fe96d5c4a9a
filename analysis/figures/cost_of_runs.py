"""What the runs cost: seconds of computing by stage."""

import polars as pl
from matplotlib import rc_context
from matplotlib.figure import Figure

from analysis.figures.drawing import MUTED, SERIES_STYLES, SETTINGS
from analysis.figures.series import NothingToDrawError, foot, new_figure, panel_title
from analysis.names import duration
from analysis.runs import FINISHED

STAGES = ("prepare", "pretrain", "defend", "distill", "finetune", "attack", "simulate")
WIDTH = 5.4  # inches


def seconds_by_stage(runs: pl.DataFrame) -> pl.DataFrame:
    """What each stage took: `stage`, `runs`, `seconds` (their sum), `shortest`, `longest`, in their order.

    Finished runs count, each result (content key) once, however often it was used; a stage that no run has
    is left out.
    """
    done = runs.filter((pl.col("status") == FINISHED) & pl.col("seconds").is_not_null())
    done = done.sort("start_ms").unique("key", keep="last", maintain_order=True)
    order = pl.DataFrame({"stage": STAGES, "order": range(len(STAGES))})
    return (
        done.group_by("stage")
        .agg(
            runs=pl.len(),
            seconds=pl.col("seconds").sum(),
            shortest=pl.col("seconds").min(),
            longest=pl.col("seconds").max(),
        )
        .join(order, on="stage")
        .sort("order")
        .drop("order")
    )


def draw(runs: pl.DataFrame) -> Figure:
    """Bars of the seconds of each stage, with the number of runs and the shortest and longest of them.

    `runs` are rows of `analysis.load_runs` of every stage. Raises `NothingToDrawError` where none says what
    it took.
    """
    found = seconds_by_stage(runs)
    if found.is_empty():
        raise NothingToDrawError("no finished run says how long it took")
    with rc_context(SETTINGS):
        figure = new_figure(WIDTH, 0.33 * found.height + 1.1)
        ax = figure.subplots()
        places = range(found.height)
        ax.barh(places, found["seconds"], height=0.62, color=SERIES_STYLES[0][0])
        ax.set_yticks(places, found["stage"].to_list())
        ax.invert_yaxis()
        for place, row in zip(places, found.iter_rows(named=True), strict=True):
            each = duration(row["shortest"])
            if duration(row["longest"]) != each:
                each += f" to {duration(row['longest'])}"
            count = f"{row['runs']} run{'s' * (row['runs'] > 1)}"
            ax.annotate(
                f"{duration(row['seconds'])}  ({count}, {each})", (row["seconds"], place), xytext=(4, 0),
                textcoords="offset points", va="center", fontsize=7,
            )  # fmt: skip
        ax.margins(x=0.55)
        ax.set_xlim(left=0)
        ax.set_xlabel("seconds of computing")
        ax.grid(axis="x", color=MUTED, alpha=0.18, linewidth=0.6)
        ax.set_axisbelow(True)
        panel_title(ax, f"{duration(float(found['seconds'].sum()))} in all")
        foot(figure, "each result once, however often it was used again; wall clock of one process each")
    return figure
