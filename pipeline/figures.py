"""Small pictures beside the numbers of a run. Drawn with Agg, without pyplot's global state."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nenni_core.evaluation import Examples

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _GRID = "#333333", "#dddddd"
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")  # Okabe & Ito: told apart by the colour-blind too


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # not at the top: slow, and not always needed
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _plain(axes: "Axes", title: str, x: str, y: str) -> None:
    axes.set_title(title, color=_INK, fontsize=10, loc="left")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(color=_GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _save(figure: "Figure", path: Path) -> None:
    # no version in the file: equal pictures are equal bytes
    figure.savefig(path, dpi=110, metadata={"Software": None})


def learning_curve(rows: Sequence[Mapping[str, float]], path: Path) -> None:
    """Loss, and accuracies on training and validation images, by epoch (rows of `history.json`)."""
    figure = _figure(8, 3)
    loss, accuracy = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in rows]
    loss.plot(epochs, [row["train_loss"] for row in rows], color=_COLOURS[0], marker=".")
    _plain(loss, "Training loss", "epoch", "loss")
    series = {
        "train_accuracy": "training",
        "validation_clean_accuracy": "validation, clean",
        "validation_robust_accuracy": "validation, PGD",
    }
    for colour, (name, label) in zip(_COLOURS, series.items(), strict=False):
        accuracy.plot(epochs, [100 * row[name] for row in rows], color=colour, marker=".", label=label)
    accuracy.set_ylim(0, 100)
    accuracy.legend(frameon=False, fontsize=8)
    _plain(accuracy, "Accuracy", "epoch", "%")
    _save(figure, path)


def distillation(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Error and top-K recall of each layer's approximation (rows of `layers.json`)."""
    figure = _figure(8, 3)
    error, recall = figure.subplots(1, 2)
    places = np.arange(len(rows))
    error.plot(places, [row["nmse"] for row in rows], color=_COLOURS[0], marker=".", label="exact weights")
    error.plot(
        places,
        [row["nmse_quantized"] for row in rows],
        color=_COLOURS[1],
        marker=".",
        label="rounded weights",
    )
    error.set_ylim(bottom=0)
    error.legend(frameon=False, fontsize=8)
    _plain(error, "Normalised squared error", "layer", "error / variance")
    recall.bar(places, [row["top_k_recall"] for row in rows], color=_COLOURS[2])
    recall.set_ylim(0, 1)
    _plain(recall, "Top-K recall", "layer", "share of essential neurons found")
    _save(figure, path)


def densities(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Measured and nominal share of precise neurons of each layer (rows of `densities.csv`)."""
    figure = _figure(6, 3)
    axes = figure.subplots()
    axes.bar(
        [row["index"] for row in rows], [row["density"] for row in rows], color=_COLOURS[0], label="measured"
    )
    axes.plot(
        [row["index"] for row in rows], [row["nominal"] for row in rows], color=_COLOURS[1], label="nominal"
    )
    axes.set_ylim(0, max(0.05, 1.15 * max(max(row["density"], row["nominal"]) for row in rows)))
    axes.legend(frameon=False, fontsize=8, ncols=2, loc="lower right", bbox_to_anchor=(1, 1))
    _plain(axes, "Precise neurons", "layer", "share")
    _save(figure, path)


def adversarial_examples(examples: Examples, class_names: Sequence[str], path: Path) -> None:
    """Clean images in the first row, one row per attack below; what the model says above each image.

    A misclassification is printed in the second colour.
    """
    attacks = list(examples.adversarial)
    columns, lines = len(examples.index), 1 + len(attacks)
    figure = _figure(1.1 * columns + 1.2, 1.25 * lines)
    grid = figure.subplots(lines, columns, squeeze=False)
    for line, name in enumerate(["clean", *attacks]):
        images = examples.clean if line == 0 else examples.adversarial[name]
        predicted = examples.label if line == 0 else examples.predicted[name]
        for column in range(columns):
            axes = grid[line, column]
            image = images[column].movedim(0, -1).numpy()
            grey = image.shape[-1] not in (3, 4)
            axes.imshow(
                image[..., 0] if grey else image,
                cmap="gray" if grey else None,
                vmin=0,
                vmax=1,
                interpolation="nearest",
            )
            axes.set_xticks([])
            axes.set_yticks([])
            right = int(predicted[column]) == int(examples.label[column])
            axes.set_title(
                class_names[int(predicted[column])], fontsize=7, pad=2, color=_INK if right else _COLOURS[1]
            )
            if column == 0:
                axes.set_ylabel(name.replace("_", "\n"), fontsize=7, rotation=0, ha="right", va="center")
    _save(figure, path)
