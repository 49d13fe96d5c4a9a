"""The paper's tables 1 to 4 as they are printed: methods, data sets, columns, values and attack settings."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from analysis import names
from analysis.paper import NETWORKS, REFERENCE

TABLES = (1, 2, 3, 4)
OURS, INJECTION = " (Ours)", "Noise Injection "
CLEAN, BITOPS = "clean", "bitops"
# What a printed column is called among the tracked ones: the paper's AutoAttack is that of torchattacks.
TRACKED = {"autoattack": "autoattack_torchattacks"}
COLUMN_TITLES = {"autoattack": "AutoAttack", BITOPS: "BitOPs"}
# Section 4.1 on what it attacks with; what it does not say is not held against a run.
SETTINGS: dict[str, dict[str, str]] = {
    "fgsm": {"kind": "fgsm", "eps": "8/255"},
    "pgd20": {"kind": "pgd", "eps": "8/255", "step_size": "2/255", "steps": "20"},
    "mifgsm": {"kind": "mifgsm", "eps": "8/255", "step_size": "2/255", "steps": "5"},
    "cw_l2": {"kind": "cw", "learning_rate": "0.01", "steps": "1000"},
    "autoattack_torchattacks": {"kind": "autoattack_torchattacks", "eps": "8/255"},
}
# Section 4.1 on the training.
EPOCHS = 200


@dataclass(frozen=True, kw_only=True)
class PaperDataset:
    """A data set of the paper: its printed name and how large it is."""

    title: str
    train_images: int
    test_images: int


DATASETS = {
    "cifar10": PaperDataset(title="CIFAR-10", train_images=50_000, test_images=10_000),
    "cifar100": PaperDataset(title="CIFAR-100", train_images=50_000, test_images=10_000),
}


@dataclass(frozen=True, kw_only=True)
class Method:
    """A printed row: a dense network by what it was trained by, or noise by its ratio or N:M pattern."""

    title: str
    """As it is printed, without the mark that it is the authors' own."""
    trained_by: str = "adversarial"
    ratio: float | None = None
    pattern: str | None = None

    @property
    def is_noise(self) -> bool:
        """Whether it is a network of the paper's own."""
        return self.ratio is not None or self.pattern is not None

    @property
    def is_baseline(self) -> bool:
        """Whether it is the network that the paper's improvements are counted from."""
        return not self.is_noise and self.trained_by == "adversarial"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One printed table."""

    number: int
    model: str
    datasets: tuple[str, ...]
    columns: tuple[str, ...]
    """As tracked: "clean", then attacks in the printed order, then "bitops" where it is printed."""
    methods: tuple[Method, ...]
    printed: Mapping[tuple[str, Method, str], float]
    """By data set, method and column: accuracies as fractions, BitOPs of one image."""

    @property
    def network(self) -> str:
        """The printed name of the network."""
        return NETWORKS[self.model]

    @property
    def accuracies(self) -> tuple[str, ...]:
        """The columns that are accuracies."""
        return tuple(column for column in self.columns if column != BITOPS)

    @property
    def has_improvements(self) -> bool:
        """Whether the paper prints rows of improvement: where there are costs and a baseline."""
        return BITOPS in self.columns and any(method.is_baseline for method in self.methods)


def column_title(column: str) -> str:
    """The heading of a printed column: "AutoAttack" for `autoattack_torchattacks`."""
    printed = next((name for name, tracked in TRACKED.items() if tracked == column), column)
    return COLUMN_TITLES.get(printed) or names.column_name(column)


@cache
def layout(number: int) -> Layout:
    """Table `number`, 1 to 4, from the files in `analysis/reference`."""
    with (REFERENCE / f"table{number}.csv").open(newline="") as file:
        lines = [line for row in csv.DictReader(file) for line in _by_dataset(row)]
    return Layout(
        number=number,
        model=lines[0][0]["model"],
        datasets=tuple(dict.fromkeys(dataset for _, dataset, _ in lines)),
        columns=tuple(dict.fromkeys(column for _, _, values in lines for column in values)),
        methods=tuple(dict.fromkeys(_method(row["method"]) for row, _, _ in lines)),
        printed={
            (dataset, _method(row["method"]), column): float(text)
            if column == BITOPS
            else round(float(text) / 100, 4)
            for row, dataset, values in lines
            for column, text in values.items()
            if text
        },
    )


def _value(column: str, text: str) -> float:
    return float(text) if column == BITOPS else round(float(text) / 100, 4)  # as many digits as printed


def _by_dataset(row: dict[str, str]) -> list[tuple[dict[str, str], str, dict[str, str]]]:
    """(row, data set, values by column): table 3 has both data sets in one row."""
    if "dataset" in row:
        values = {name: text for name, text in row.items() if name not in ("dataset", "model", "method")}
        return [(row, _dataset(row["dataset"]), {TRACKED.get(name, name): t for name, t in values.items()})]
    found = []
    for dataset in DATASETS:
        values = {
            name.removeprefix(f"{dataset}_"): text
            for name, text in row.items()
            if name.startswith(f"{dataset}_")
        }
        found.append((row, dataset, {TRACKED.get(name, name): t for name, t in values.items()}))
    return found


def _dataset(title: str) -> str:
    return next(name for name, dataset in DATASETS.items() if dataset.title == title)


# What the pipeline calls the defences that the paper prints.
_DEFENCES = {
    "Overfitting Adversarial Training (Rice et al., 2020)": "adversarial",
    "RSE (Add) (Liu et al., 2018)": "rse_add",
    "RSE (Multiply) (Liu et al., 2018)": "rse_multiply",
    "Random Projection Filters (Dong & Xu, 2023)": "rpf",
    "TRADES (Zhang et al., 2019)": "trades",
    "FAT (Zhang et al., 2020)": "fat",
    "AWP (Wu et al., 2020)": "awp",
    "RobustWRN (Huang et al., 2021)": "robust_wrn",
}


def _method(printed: str) -> Method:
    title = printed.removesuffix(OURS)
    if not title.startswith(INJECTION):
        return Method(title=title, trained_by=_DEFENCES[title])
    rule = title.removeprefix(INJECTION)
    if ":" in rule:
        return Method(title=title, pattern=rule)
    return Method(title=title, ratio=float(rule.removeprefix("Ratio ").removesuffix("%")) / 100)
