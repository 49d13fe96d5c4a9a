"""Every stage on tiny data: what it writes, that equal runs are equal bytes, and the errors of users."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars
import pytest
import torch
from safetensors.numpy import load_file
from stored_stages import plans_of
from tiny_experiment import TINY
from typer.testing import CliRunner

from nenni_core.bitops import bitops
from nenni_core.chain.artifacts import ARRAYS, array_digest, load_model, load_prepared
from nenni_core.chain.runtime import Runtime
from nenni_core.data import load_dataset
from nenni_core.device import configure_torch
from nenni_core.evaluation import evaluate
from nenni_core.files import read_json
from nenni_core.inject import injected_layers
from nenni_core.masks import mask_densities
from nenni_core.statistics import wilson_interval
from pipeline.exports import Folders, Result, export
from pipeline.run_tags import result_tags
from pipeline.runner import Plan, ensure
from pipeline.stages.command import stage_app
from pipeline.store import TIMING, Entry, Store

THREADS = 1


@pytest.fixture(scope="module", autouse=True)
def torch_settings() -> Iterator[None]:
    """As the commands set PyTorch, and afterwards as it was."""
    deterministic, threads = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(THREADS)
    yield
    torch.use_deterministic_algorithms(deterministic)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def plans() -> list[Plan]:
    return plans_of(TINY)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, plans: list[Plan]) -> Store:
    """Everything that the tiny set describes, computed."""
    filled = Store(tmp_path_factory.mktemp("store"))
    for planned in plans:
        ensure("attack", planned, store=filled)
    return filled


@pytest.fixture(scope="module")
def entries(store: Store, plans: list[Plan]) -> dict[str, Entry]:
    """The entries of the noisy variant by stage, and that of the attack on the teacher as `dense`."""
    dense, variant = plans
    found = {stage: store.find(stage, key) for stage, key in variant.keys.items()}
    found["dense"] = store.find("attack", dense.keys["attack"])
    assert None not in found.values()
    return {stage: entry for stage, entry in found.items() if entry is not None}


def names(entry: Entry) -> set[str]:
    return set(entry.manifest.files)


def test_prepare_writes_what_the_manifest_says(entries: dict[str, Entry]) -> None:
    entry = entries["prepare"]
    assert names(entry) == {ARRAYS, "dataset.json"}
    arrays = load_file(entry.path / ARRAYS)
    facts = read_json(entry.path / "dataset.json")
    assert {name: array_digest(array) for name, array in arrays.items()} == facts["sha256"]
    assert facts["images"] == {"train": 36, "validation": 12, "test": 20}
    raw = load_dataset("synthetic")
    assert facts["class_names"] == list(raw.class_names)
    assert arrays["train_images"].dtype == np.uint8
    assert arrays["test_labels"].dtype == np.int64
    # the three parts are images of the source, none of them twice
    source = {image.tobytes() for image in raw.train_images}
    chosen = [image.tobytes() for part in ("train", "validation") for image in arrays[f"{part}_images"]]
    assert len(set(chosen)) == 48
    assert set(chosen) <= source
    pixels = arrays["train_images"].astype(np.float64) / 255
    assert facts["mean"] == pytest.approx(pixels.mean(axis=(0, 2, 3)))
    assert facts["std"] == pytest.approx(pixels.std(axis=(0, 2, 3)))
    assert entry.metrics == {"images/train": 36, "images/validation": 12, "images/test": 20, "classes": 10}


def test_pretrain_keeps_the_best_and_the_last_epoch(entries: dict[str, Entry]) -> None:
    entry = entries["pretrain"]
    weights = {"best.safetensors", "last.safetensors", "model.json"}
    assert names(entry) == weights | {"history.json", "history.csv", "timing.json", "learning_curve.png"}
    history = read_json(entry.path / "history.json")
    assert [row["epoch"] for row in history] == [1, 2]
    table = polars.read_csv(entry.path / "history.csv")
    assert table.to_dicts() == history
    robust = [row["validation_robust_accuracy"] for row in history]
    assert entry.metrics["best_validation_robust_accuracy"] == max(robust)
    assert entry.metrics["last_validation_robust_accuracy"] == robust[-1]
    assert entry.metrics["best_epoch"] == 1 + robust.index(max(robust))


def test_distill_leaves_the_teacher_as_it_was(entries: dict[str, Entry]) -> None:
    entry = entries["distill"]
    assert names(entry) == {
        "model.safetensors",
        "model.json",
        "layers.json",
        "layers.csv",
        "distillation.png",
        TIMING,
    }
    teacher = load_model(entries["pretrain"].path, "best.safetensors").state_dict()
    noisy = load_model(entry.path)
    state = noisy.state_dict()
    assert all(torch.equal(state[name], value) for name, value in teacher.items())
    rows = read_json(entry.path / "layers.json")
    assert [row["name"] for row in rows] == list(injected_layers(noisy))
    assert entry.metrics["mean_nmse"] == pytest.approx(np.mean([row["nmse"] for row in rows]))
    assert all(row["nmse"] <= row["nmse_quantized"] * (1 + 1e-6) for row in rows)


def test_finetune_measures_its_own_model(entries: dict[str, Entry]) -> None:
    entry = entries["finetune"]
    assert {"model.safetensors", "model.json", "densities.json", "densities.csv", "bitops.json"} <= names(
        entry
    )
    model = load_model(entry.path)
    data = load_prepared(entries["prepare"].path)
    for layer in injected_layers(model).values():
        assert (layer.injection.ratio, layer.injection.gradient) == (0.9, "straight_through")
    densities = read_json(entry.path / "densities.json")
    # an exact count: equal on every image, so on any other choice of images too
    again = mask_densities(model, data.test.batches(4, "cpu"))
    assert densities == pytest.approx(again)
    costs = read_json(entry.path / "bitops.json")
    assert costs["measured"] == bitops(model, data.image_shape, densities).total
    assert costs["nominal"] == bitops(model, data.image_shape).total
    assert entry.metrics["bitops_ratio"] == costs["measured"] / costs["dense"] < 0.2
    teacher = load_model(entries["distill"].path).state_dict()
    moved = [name for name, value in model.state_dict().items() if not torch.equal(value, teacher[name])]
    assert any(name.endswith("approx_weight") for name in moved)
    assert not any(name.endswith("signs") for name in moved)


@pytest.mark.parametrize("name", ["attack", "dense"])
def test_attack_results_are_means_of_its_records(entries: dict[str, Entry], name: str) -> None:
    entry = entries[name]
    assert {"records.parquet", "results.json", TIMING, "examples.png"} >= names(entry) - {"examples.png"}
    records = polars.read_parquet(entry.path / "records.parquet")
    assert len(records) == entry.metrics["images"] == 12
    results = read_json(entry.path / "results.json")
    for column in ("clean", "fgsm", "pgd20_straight_through", "worst_case"):
        correct = int(records[f"{column}_correct"].sum())
        assert entry.metrics[f"correct/{column}"] == correct
        assert entry.metrics[f"accuracy/{column}"] == correct / 12
    assert (results["clean"]["low"], results["clean"]["high"]) == wilson_interval(
        results["clean"]["correct"], 12
    )
    assert results["attacks"]["fgsm"]["spec"]["eps"] == 8 / 255
    assert "seconds" not in json.dumps(results)
    timing = read_json(entry.path / TIMING)
    for column in ("clean", "fgsm", "pgd20_straight_through"):
        attacked = results["attacks"].get(column, {"attacked": 12})["attacked"]
        # both are rounded to thousandths
        low, high = (timing[f"seconds/{column}"] + error for error in (-0.0006, 0.0006))
        assert attacked / high - 0.001 <= timing[f"images_per_second/{column}"]
        assert low <= 0 or timing[f"images_per_second/{column}"] <= attacked / low + 0.001


@pytest.mark.parametrize("stage", ["pretrain", "distill", "finetune", "attack"])
def test_speed_and_memory_are_kept_beside_the_results(entries: dict[str, Entry], stage: str) -> None:
    timing = read_json(entries[stage].path / TIMING)
    weights = sum(file.size for file in entries["pretrain"].manifest.files.values())
    assert timing["peak_memory_bytes"] > weights
    assert any(name.startswith("images_per_second") for name in timing)
    if stage in ("pretrain", "finetune"):
        seconds = sum(timing["seconds/epoch"])
        assert timing["images_per_second"] == pytest.approx(
            36 * len(timing["seconds/epoch"]) / seconds, rel=0.05
        )


def test_the_attack_is_on_the_model_of_the_variant(entries: dict[str, Entry], plans: list[Plan]) -> None:
    """The clean column, computed another way."""
    data = load_prepared(entries["prepare"].path)
    test = data.test.limited(12, 0)
    for name, model in (
        ("dense", load_model(entries["pretrain"].path, "best.safetensors")),
        ("attack", load_model(entries["finetune"].path)),
    ):
        seen = evaluate(model, test.images, test.labels, [], num_classes=10, keep_examples=0)
        records = polars.read_parquet(entries[name].path / "records.parquet")
        assert records["clean_predicted"].to_list() == seen.clean_predicted.tolist()


def test_costs_of_the_dense_model_are_all_equal(entries: dict[str, Entry]) -> None:
    dense, noisy = entries["dense"].metrics, entries["attack"].metrics
    assert dense["bitops_dense"] == dense["bitops_nominal"] == dense["bitops_measured"]
    assert noisy["bitops_dense"] == dense["bitops_dense"] > noisy["bitops_measured"]


def test_equal_runs_are_equal_bytes(tmp_path: Path, store: Store, plans: list[Plan]) -> None:
    other = Store(tmp_path)
    for planned in plans:
        ensure("attack", planned, store=other)
    assert other.names() == store.names()
    for stage, key in store.names():
        first, second = store.find(stage, key), other.find(stage, key)
        assert first is not None
        assert second is not None
        assert first.metrics == second.metrics
        for name in names(first) - {TIMING}:
            assert first.manifest.files[name] == second.manifest.files[name], f"{stage}: {name}"


def test_another_seed_gives_another_model_on_the_same_data(tmp_path: Path, entries: dict[str, Entry]) -> None:
    dense, _ = plans_of(TINY | {"seed": 1})
    store = Store(tmp_path)
    pretrain = ensure("pretrain", dense, store=store)
    prepare = store.find("prepare", dense.keys["prepare"])
    assert prepare is not None
    assert prepare.manifest.digest == entries["prepare"].manifest.digest
    assert (
        pretrain.manifest.files["last.safetensors"] != entries["pretrain"].manifest.files["last.safetensors"]
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {"finetune": {"selection": "threshold"}},
        {
            "finetune": {
                "target": "essential",
                "score": "signed",
                "checkpoint": "best",
                "objective": "adversarial",
            }
        },
        {
            "distill": {
                "randomize": "bank",
                "bank_size": 2,
                "solver": "sgd",
                "epochs": 2,
                "checkpoint": "last",
            }
        },
        {"distill": {"randomize": "stochastic_rounding", "scale": "per_channel", "quantize_projected": True}},
        {"finetune": {"ratio": [], "pattern": "4:8"}, "pretrain": {"defense": "clean"}},
    ],
    ids=["threshold", "essential", "bank", "stochastic", "pattern"],
)
def test_every_choice_runs_and_repeats(tmp_path: Path, tiny: dict[str, Any], change: dict[str, Any]) -> None:
    tiny["pretrain"]["epochs"] = 1
    tiny["finetune"]["dense"] = False
    for section, values in change.items():
        tiny[section] |= values
    [planned] = plans_of(tiny)
    first = ensure("attack", planned, store=Store(tmp_path / "one"))
    second = ensure("attack", planned, store=Store(tmp_path / "two"))
    assert first.manifest.digest == second.manifest.digest
    density = 0.5 if tiny["finetune"]["pattern"] else 0.1
    measured = read_json(tmp_path / "one" / "finetune" / planned.keys["finetune"] / "densities.json")
    assert np.mean(list(measured.values())) == pytest.approx(density, abs=0.02)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_it_runs_and_repeats_on_an_accelerator(tmp_path: Path, tiny: dict[str, Any]) -> None:
    tiny["finetune"] |= {"selection": "threshold", "dense": False}
    [planned] = plans_of(tiny)
    runtime = Runtime(device="cuda")
    configure_torch(THREADS, "cuda")
    try:
        entries = [ensure("attack", planned, store=Store(tmp_path / name), runtime=runtime) for name in "ab"]
    finally:
        configure_torch(THREADS)
    assert entries[0].manifest.digest == entries[1].manifest.digest


def test_the_files_for_dvc(tmp_path: Path, store: Store, plans: list[Plan]) -> None:
    folders = Folders(tmp_path / "outputs", tmp_path / "metrics", tmp_path / "plots")
    for stage in ("prepare", "pretrain", "distill", "finetune", "attack"):
        results = [
            Result(planned.experiment, ensure(stage, planned, store=store))
            for planned in plans
            if stage in planned.experiment.stages
        ]
        export(stage, results, folders)
    listed = read_json(tmp_path / "outputs" / "pretrain" / "entries.json")["entries"]
    assert [entry["experiments"] for entry in listed] == [["dense", "ratio-0.9-clean"]]
    attacks = read_json(tmp_path / "outputs" / "attack" / "entries.json")["entries"]
    assert [entry["key"] for entry in attacks] == [planned.keys["attack"] for planned in plans]
    metrics = read_json(tmp_path / "metrics" / "attack.json")
    assert set(metrics) == {"dense", "ratio-0.9-clean"}
    assert metrics["dense"]["bitops_ratio"] == 1.0
    curve = polars.read_csv(tmp_path / "plots" / "learning_curve.csv")
    assert curve["epoch"].to_list() == [1, 2]
    accuracy = polars.read_csv(tmp_path / "plots" / "accuracy.csv")
    assert accuracy["variant"].to_list() == ["dense", "ratio-0.9-clean"]
    assert {"clean", "fgsm", "pgd20_straight_through", "bitops_ratio"} <= set(accuracy.columns)
    densities = polars.read_csv(tmp_path / "plots" / "densities.csv")
    assert densities["index"].to_list() == list(range(len(densities)))


def test_a_set_without_variants_has_empty_tables(tmp_path: Path) -> None:
    folders = Folders(tmp_path / "outputs", tmp_path / "metrics", tmp_path / "plots")
    export("finetune", [], folders)
    assert read_json(tmp_path / "metrics" / "finetune.json") == {}
    assert (tmp_path / "plots" / "densities.csv").read_text() == "index,layer,variant,density\n"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"pretrain": {"epoch": 3}}, "unknown key 'pretrain.epoch'; did you mean 'epochs'?"),
        ({"prepare": {"dataset": "digit"}}, "unknown dataset 'digit'; did you mean 'digits'?"),
        ({"pretrain": {"model": "resnet81"}}, "unknown model 'resnet81'; did you mean 'resnet18'?"),
        ({"pretrain": {"epochs": "many"}}, "pretrain.epochs: expected a number"),
        ({"prepare": {"dataset": "cifar10", "path": "nowhere/cifar"}}, "nowhere/cifar"),
        ({"prepare": {"train_images": 10**6}}, "1000000"),
        ({"prepare": {"validation_images": 48}}, "validation images: 48"),
        ({"pretrain": {"crop_padding": 16}}, "crop_padding is 16"),
    ],
)
def test_mistakes_end_with_status_2_and_one_line(
    tmp_path: Path, tiny: dict[str, Any], change: dict[str, Any], expected: str
) -> None:
    for section, values in change.items():
        tiny[section] |= values
    parameters = tmp_path / "params.yaml"
    parameters.write_text(json.dumps(tiny))
    folders = [f"--{name}={tmp_path / name}" for name in ("outputs", "metrics", "plots", "store")]
    arguments = [
        "--params",
        str(parameters),
        *folders,
        "--no-tracking",
        "--threads",
        str(THREADS),
        "--device=cpu",
    ]
    result = CliRunner().invoke(stage_app("pretrain"), arguments)
    assert result.exit_code == 2
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert expected in errors[0]
    assert "Traceback" not in result.output
    store = Store(tmp_path / "store")
    assert [stage for stage, _ in store.names()] in ([], ["prepare"])
    assert not (tmp_path / "outputs").exists()
    assert not (tmp_path / "metrics").exists()


def test_divergence_ends_with_status_1_and_one_line(tmp_path: Path, tiny: dict[str, Any]) -> None:
    tiny["pretrain"] |= {"learning_rate": 1e30}
    parameters = tmp_path / "params.yaml"
    parameters.write_text(json.dumps(tiny))
    arguments = [
        "--params",
        str(parameters),
        "--store",
        str(tmp_path / "store"),
        "--no-tracking",
        "--device=cpu",
    ]
    result = CliRunner().invoke(stage_app("pretrain"), arguments)
    assert result.exit_code == 1
    assert "Traceback" not in result.output
    assert len([line for line in result.stderr.splitlines() if "diverged" in line]) == 1
    assert [stage for stage, _ in Store(tmp_path / "store").names()] == ["prepare"]


def test_recompute_computes_again(tmp_path: Path, tiny: dict[str, Any]) -> None:
    parameters = tmp_path / "params.yaml"
    parameters.write_text(json.dumps(tiny))
    folders = [f"--{name}={tmp_path / name}" for name in ("outputs", "metrics", "plots", "store")]
    arguments = [
        "--params",
        str(parameters),
        *folders,
        "--no-tracking",
        "--threads",
        str(THREADS),
        "--device=cpu",
    ]
    app = stage_app("prepare")
    first = CliRunner().invoke(app, arguments)
    again = CliRunner().invoke(app, arguments)
    forced = CliRunner().invoke(app, [*arguments, "--recompute"])
    assert [r.exit_code for r in (first, again, forced)] == [0, 0, 0]
    assert "computed in" in first.stderr
    assert "already there" in again.stderr
    assert "computed in" in forced.stderr


def test_the_verdict_on_masking_is_an_output_and_a_tag(tmp_path: Path, tiny: dict[str, Any]) -> None:
    tiny["attack"]["attacks"] = {
        "fgsm": {"kind": "fgsm"},
        "pgd20": {"kind": "pgd", "steps": 3},
        "pgd2_probe": {"kind": "pgd", "steps": 2, "in_worst_case": False},
        "pgd20_unbounded_probe": {"kind": "pgd", "eps": "64/255", "steps": 5, "in_worst_case": False},
        "transfer": {"kind": "transfer", "steps": 2},
        "apgd_ce": {"kind": "apgd_ce", "steps": 2, "gradient": "straight_through"},
        "square": {"kind": "square", "queries": 5, "survivors_of": ["apgd_ce"]},
    }
    [_, variant] = plans_of(tiny)
    entry = ensure("attack", variant, store=Store(tmp_path))
    verdict = json.loads((entry.path / "masking.json").read_text())
    assert len(verdict["tests"]) == 6
    agree = verdict["tests"]["protocols_disagree"]
    records = polars.read_parquet(entry.path / "records.parquet")
    protocols = {"paper": ("fgsm", "pgd20"), "adaptive": ("transfer", "apgd_ce", "square")}
    for protocol, names in protocols.items():
        together = records.select(polars.all_horizontal(f"{name}_correct" for name in names).mean()).item()
        assert agree[protocol] == pytest.approx(together)
        assert entry.metrics[f"masking/protocols_disagree/{protocol}"] == agree[protocol]
    assert entry.metrics["masking/protocols_disagree"] == float(agree["raised"])
    assert result_tags(entry)["masking"] == (", ".join(verdict["raised"]) or "no sign of it")
