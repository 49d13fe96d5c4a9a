"""What DVC's users do, done: in a copy of this repository with a tiny experiment."""

import csv
import json
import re
from math import sqrt
from statistics import NormalDist

import polars as pl
import pytest
import yaml
from checkout import ROOT, Checkout
from tiny_experiment import TINY

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """The tiny experiment after its first `dvc repro`, committed."""
    copy = Checkout(tmp_path_factory.mktemp("checkout"), TINY)
    copy.run("dvc", "repro")
    copy.git("add", "-A")
    copy.git("commit", "-q", "-m", "results")
    return copy


def test_results_are_followed_by_git_and_work_products_are_not(checkout: Checkout) -> None:
    tracked = set(checkout.git("ls-files").splitlines())
    assert {"dvc.lock", "metrics/attack.json", "plots/accuracy.csv", "plots/learning_curve.csv"} <= tracked
    assert not [name for name in tracked if name.startswith(("store/", "outputs/", "reports/", "mlflow"))]
    assert set(checkout.accuracy()) == {"dense", "ratio-0.9-clean"}
    assert (checkout.folder / "reports" / "report.html").is_file()


def test_the_table_says_what_the_store_says(checkout: Checkout) -> None:
    """Every number of the report, recomputed from the predictions in its entry."""
    table = pl.read_csv(checkout.folder / "reports" / "table.csv")
    assert table["label"].to_list() == ["Dense teacher", "Ratio 0.9, clean"]
    for row in table.iter_rows(named=True):
        entry = checkout.folder / "store" / "attack" / row["key"]
        records = pl.read_parquet(entry / "records.parquet")
        attacks = json.loads((entry / "manifest.json").read_text())["config"]["attacks"]
        masks = {name: records[f"{name}_predicted"] == records["label"] for name in ("clean", *attacks)}
        masks["worst_case"] = pl.DataFrame(masks).select(pl.all_horizontal(pl.all())).to_series()
        for column, mask in masks.items():
            low, high = wilson(sum(mask), len(mask))
            assert row[f"{column}_accuracy"] == pytest.approx(sum(mask) / len(mask))
            assert (row[f"{column}_low"], row[f"{column}_high"]) == pytest.approx((low, high))
        cost = json.loads((entry / "results.json").read_text())["bitops"]
        for kind in ("nominal", "measured"):
            saved = None if row["defence"] == "dense" else pytest.approx(1 - cost[kind] / cost["dense"])
            assert row[f"reduction_{kind}"] == saved


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """The roots of (p - s/n)^2 = z^2 p (1 - p) / n, solved as a quadratic in p."""
    z, share = NormalDist().inv_cdf(0.975), successes / trials
    a, b, c = 1 + z**2 / trials, -(2 * share + z**2 / trials), share**2
    root = sqrt(max(0.0, b**2 - 4 * a * c))
    return (-b - root) / (2 * a), (-b + root) / (2 * a)


def test_a_second_repro_does_nothing(checkout: Checkout) -> None:
    said = checkout.run("dvc", "repro")
    assert "Running stage" not in said
    assert said.count("didn't change, skipping") == 8
    assert checkout.git("status", "--porcelain") == ""


def test_plots_are_shown(checkout: Checkout) -> None:
    shown = checkout.json("dvc", "plots", "show", "--json")
    definitions = yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"]
    curves = [definition for definition in definitions if not isinstance(definition, str)]
    [folder] = [definition for definition in definitions if isinstance(definition, str)]
    pictures = {str(path.relative_to(checkout.folder)) for path in (checkout.folder / folder).iterdir()}
    assert f"{folder}/accelerator_timeline.svg" in pictures
    titles = {title for definition in curves for title in definition}
    assert pictures | titles == set(shown["data"])
    assert not shown.get("errors")
    # every file and column that a plot names exists and has values
    for definition in curves:
        for plot in definition.values():
            for name, columns in plot["y"].items():
                with (checkout.folder / name).open() as file:
                    rows = list(csv.DictReader(file))
                assert rows
                for column in [plot["x"], *([columns] if isinstance(columns, str) else columns)]:
                    assert all(float(row[column]) >= 0 for row in rows), (name, column)
    assert "index.html" in checkout.run("dvc", "plots", "show")
    page = checkout.folder / "dvc_plots" / "index.html"
    sources = re.findall(r'<img src="([^"]*)"', page.read_text())
    assert len(sources) == len(pictures)
    shown_bytes = {(page.parent / source).read_bytes() for source in sources}
    assert shown_bytes == {(checkout.folder / path).read_bytes() for path in pictures}


def test_an_experiment_with_another_ratio(checkout: Checkout) -> None:
    said = checkout.run("dvc", "exp", "run", "-S", "finetune.ratio=0.99", "-n", "more-noise")
    assert "Stage 'distill' didn't change, skipping" in said
    assert "Running stage 'finetune'" in said
    # DVC deletes the outs of a stage before it runs it; the store is none, so nothing is computed twice
    assert re.search(r"attack dense \w+: already there", said)
    assert re.search(r"attack ratio-0.99-clean \w+: computed in", said)
    after = checkout.accuracy()
    assert set(after) == {"dense", "ratio-0.99-clean"}

    difference = checkout.json("dvc", "metrics", "diff", "--json")["metrics/attack.json"]
    assert difference["ratio-0.99-clean.bitops_ratio"]["new"] == after["ratio-0.99-clean"]["bitops_ratio"]
    assert difference["ratio-0.9-clean.bitops_ratio"]["old"] == pytest.approx(0.173, abs=0.01)
    assert not [name for name in difference if name.startswith("dense.")]  # the teacher is the same

    table = checkout.run("dvc", "exp", "show", "--csv")
    rows = list(csv.DictReader(line for line in table.splitlines() if "," in line))
    [experiment] = [row for row in rows if row["Experiment"] == "more-noise"]
    assert experiment["params.yaml:finetune.ratio"] == "0.99"
    assert float(experiment["ratio-0.99-clean.clean"]) == after["ratio-0.99-clean"]["clean"]

    comparison = checkout.json("dvc", "plots", "diff", "--json", "main")
    assert not comparison.get("errors")
    checkout.git("checkout", "-q", "--", ".")
    checkout.run("dvc", "checkout", "-q")
    assert set(checkout.accuracy()) == {"dense", "ratio-0.9-clean"}
    assert "Running stage" not in checkout.run("dvc", "repro")


def test_the_papers_pipeline_stands_beside_the_default(checkout: Checkout) -> None:
    """Its first stages run; all of its own configuration would take a GPU (test_paper_configuration.py)."""
    stages = [line.split()[0] for line in checkout.run("dvc", "stage", "list", "paper/dvc.yaml").splitlines()]
    default = [line.split()[0] for line in checkout.run("dvc", "stage", "list", "dvc.yaml").splitlines()]
    assert stages == [f"paper/dvc.yaml:{name}" for name in default]
    parameters = yaml.safe_load((checkout.folder / "params.yaml").read_text())
    parameters["tracking"]["experiment"] = "paper"
    (checkout.folder / "paper" / "params.yaml").write_text(yaml.safe_dump(parameters))
    said = checkout.run("dvc", "repro", "paper/dvc.yaml:pretrain")
    order = [line.split("'")[1] for line in said.splitlines() if line.startswith("Running stage")]
    assert order == ["paper/dvc.yaml:prepare", "paper/dvc.yaml:pretrain"]
    assert "computed in" not in said  # one store for both
    for name in ("metrics/{}pretrain.json", "plots/{}learning_curve.csv", "outputs/{}pretrain/entries.json"):
        own, default_file = (checkout.folder / name.format(part) for part in ("paper/", ""))
        assert own.read_bytes() == default_file.read_bytes()
    assert "Running stage" not in checkout.run("dvc", "repro")
