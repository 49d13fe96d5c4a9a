"""The columns of a frame of runs, and what each of them is."""

import re

import polars as pl

COLUMNS: dict[str, tuple[pl.DataType, str]] = {
    "run_id": (pl.String(), "MLflow's id of the stage's run"),
    "parent_run_id": (pl.String(), "MLflow's id of the experiment's parent run"),
    "status": (pl.String(), "MLflow's status; only FINISHED runs have numbers that may be shown"),
    "start_ms": (pl.Int64(), "start of the run, milliseconds since 1970 (UTC)"),
    "seconds": (pl.Float64(), "what computing the stage took, whenever that was; null while it is not done"),
    "stage": (pl.String(), "prepare, pretrain, defend, distill, finetune, attack or simulate"),
    "key": (pl.String(), "content key of the stage"),
    "upstream_keys": (pl.String(), "content keys of the stages before it, JSON as it was logged"),
    "model": (pl.String(), "name of the network"),
    "dataset": (pl.String(), "name of the data set"),
    "defence": (pl.String(), "dense or noise_injection"),
    "ratio": (pl.Float64(), "share of neurons that get noise; null where something else rules"),
    "pattern": (pl.String(), "N:M, noise in N of every M neurons; null where a ratio rules"),
    "layer_ratios": (
        pl.String(),
        "name of the ratios where every layer has its own; null for one rule for all",
    ),
    "objective": (pl.String(), "fine-tuning on clean or adversarial images; null for dense"),
    "target": (pl.String(), "which neurons get the noise: non_essential, essential or random"),
    "randomize": (pl.String(), "how the projection is drawn: fixed, bank or stochastic_rounding"),
    "selection": (pl.String(), "how neurons are chosen: top_k or threshold"),
    "score": (pl.String(), "what makes a neuron essential: magnitude or signed"),
    "bits": (pl.Int64(), "bits of the approximate weights; null where it was not recorded, and for dense"),
    "projection_ratio": (pl.Float64(), "rows of the projection per patch element; null likewise"),
    "trained_by": (pl.String(), "defence that the dense network was trained by, with unusual settings"),
    "trained_by_title": (pl.String(), "the same as tables write it, with its source"),
    "trained_by_settings": (pl.String(), "kind and every setting of that defence, a JSON object"),
    "ensemble": (pl.Int64(), "forward passes whose mean probability is the prediction"),
    "random": (pl.Boolean(), "true where two forward passes of the network differ"),
    "pretrain_epochs": (pl.Int64(), "epochs of the teacher's training"),
    "device": (pl.String(), "kind of device that made the numbers, such as cpu or cuda"),
    "threads": (pl.Int64(), "CPU threads of PyTorch while it did"),
    "seed": (pl.Int64(), "seed of the experiment"),
    "git_commit": (pl.String(), "commit of the code that made the numbers"),
    "git_dirty": (pl.Boolean(), "true where the work tree had uncommitted changes"),
    "data_fingerprint": (pl.String(), "sha256 of the data set's content"),
    "images": (
        pl.Int64(),
        "number of test images that every accuracy of the run is a share of, or that were simulated",
    ),
    "bitops_dense": (pl.Float64(), "BitOPs of one image through the dense network"),
    "bitops_nominal": (pl.Float64(), "BitOPs of one image at the nominal share of precise neurons"),
    "bitops_measured": (pl.Float64(), "BitOPs of one image at the measured share of precise neurons"),
    "params": (pl.String(), "the stage's parameters, a JSON object with sorted names"),
}
"""Every column that a frame of runs has, whatever was tracked, with its type and what it is."""

_FIGURES = {
    "seconds": "simulated seconds for a batch of images",
    "joules": "joules for a batch of images",
    "energy_delay_joule_seconds": "energy x time, joule seconds",
    "operations_per_joule": "operations of the dense network per joule",
    "operations_per_second_mm2": "operations of the dense network per second and mm2 of the core",
}
METRICS: dict[str, str] = {
    "accuracy/<column>": "share of `images` that are classified rightly, 0 to 1, where the column is clean, "
    "worst_case or an attack by its name; of random networks the mean over noise draws, and their "
    "worst case never above an attack that counts in it",
    "correct/<column>": "the same as a count; null for random networks, whose accuracy is no count",
    "forwards/<attack>": "count of images that went through the network while attacking",
    "backwards/<attack>": "count of images whose input gradient was computed while attacking",
    "zero_gradients/<attack>": "how many of these gradients were exactly zero",
    "median_distance/<attack>": "median l2 norm of the change that fools, pixels from 0 to 1; null where "
    "it is infinite, and for attacks within a radius",
    "median_distance/<attack>/<end>": "the low and the high end of its 95% interval; null where infinite",
    "masking/<test>": "a test for masked gradients: 1 where it is raised, 0 where not",
    "masking/<test>/<number>": "a number that the test rests on, a fraction",
    "seconds/<part>": "what a part took: an attack, clean images, the last epoch, the distillation",
    "images_per_second/<part>": "attacked or clean images in one second of that part",
    "images/<split>": "number of images of the data set as prepared: train, validation or test",
} | {
    f"{name}{over}/<core>/<masks>": f"the simulated accelerator: {what}{of}; masks are measured or random"
    for over, of in (("", ""), ("_over_dense", ", over that of the dense network"))
    for name, what in _FIGURES.items()
}
"""What is tracked under a name with a slash: columns of numbers, null where a run has none."""
COUNT_PREFIXES = ("correct/", "forwards/", "backwards/")
"""Those of them that are whole numbers."""


def meaning(column: str) -> str:
    """What a column of a frame of runs is; "" for a metric that nothing in this project tracks.

    >>> meaning("images/test")
    'number of images of the data set as prepared: train, validation or test'
    """
    if column in COLUMNS:
        return COLUMNS[column][1]
    for pattern, text in METRICS.items():
        if re.fullmatch(re.sub(r"<\w+>", "[^/]+", pattern), column):
            return text
    return ""


def describe_columns(runs: pl.DataFrame) -> pl.DataFrame:
    """What the columns of `runs` are, one row each: `column`, `type` and `meaning`."""
    rows = [(name, str(kind), meaning(name)) for name, kind in runs.schema.items()]
    return pl.DataFrame(rows, schema=["column", "type", "meaning"], orient="row")
