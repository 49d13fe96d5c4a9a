"""The stage `simulate`: its masks are the network's, its rows what the simulator says of them."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars
import pytest
import torch
from stored_stages import plans_of
from tiny_experiment import TINY
from typer.testing import CliRunner

from hwsim.hardware import load_hardware
from hwsim.layers import Layer
from hwsim.masks import load_masks
from hwsim.simulate import simulate_network
from hwsim.sweep import FIGURES
from hwsim.technology import load_technology
from nenni_core.chain.artifacts import load_model, load_prepared
from nenni_core.chain.runtime import Runtime
from nenni_core.files import read_json
from nenni_core.masks import mask_densities
from nenni_core.shapes import layer_shapes
from pipeline.experiment import ExperimentSet
from pipeline.keys import stage_config, stage_keys, stage_section, stages_before
from pipeline.runner import Plan, ensure
from pipeline.stages import simulate
from pipeline.stages.command import stage_app
from pipeline.stages.simulate import MASKS, SIMULATION
from pipeline.store import Entry, Store

IMAGES = 2


def with_simulation(**changes: Any) -> dict[str, Any]:
    content = copy.deepcopy(TINY)
    content["finetune"] |= {"pattern": ["7:8"]}
    content["simulate"] = {"images": IMAGES} | changes
    return content


@pytest.fixture(scope="module")
def plans() -> list[Plan]:
    """The dense network, a ratio and a pattern."""
    return plans_of(with_simulation())


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, plans: list[Plan]) -> Store:
    filled = Store(tmp_path_factory.mktemp("simulated"))
    for planned in plans[1:]:
        ensure("simulate", planned, store=filled)
    return filled


@pytest.fixture(params=[1, 2], ids=["ratio", "pattern"])
def planned(request: pytest.FixtureRequest, plans: list[Plan]) -> Plan:
    return plans[request.param]


def entry_of(store: Store, planned: Plan, stage: str) -> Entry:
    found = store.find(stage, planned.keys[stage])
    assert found is not None
    return found


def layers_of(store: Store, planned: Plan) -> list[Layer]:
    finetuned = entry_of(store, planned, "finetune").path
    shape = load_prepared(entry_of(store, planned, "prepare").path).image_shape
    return [Layer(**vars(one)) for one in layer_shapes(load_model(finetuned), shape)]


def test_the_dense_network_has_no_masks_to_simulate(plans: list[Plan]) -> None:
    assert "simulate" not in plans[0].experiment.stages
    assert "simulate" not in plans[0].keys


def test_nothing_is_attacked_for_the_simulation(store: Store, planned: Plan) -> None:
    assert stages_before("simulate", planned.experiment) == (
        "prepare",
        "pretrain",
        "distill",
        "finetune",
        "simulate",
    )
    assert store.find("attack", planned.keys["attack"]) is None


def test_masks_are_those_of_the_network(store: Store, planned: Plan) -> None:
    """The file's densities equal those that are measured on the same images by another function."""
    data = load_prepared(entry_of(store, planned, "prepare").path)
    model = load_model(entry_of(store, planned, "finetune").path)
    images = data.test.limited(IMAGES, 0)
    expected = mask_densities(model, images.batches(1, "cpu"))
    saved = load_masks(entry_of(store, planned, "simulate").path / MASKS, layers_of(store, planned))
    assert saved.images == IMAGES
    assert {name: float(mask.mean()) for name, mask in saved.masks.items()} == pytest.approx(expected)
    rule = planned.experiment.finetune
    assert rule is not None
    assert saved.about.get("pattern") == rule.pattern


def test_rows_are_means_of_single_images(store: Store, planned: Plan) -> None:
    """Cycles and energy of the measured masks, computed here image by image from the saved file."""
    path, layers = entry_of(store, planned, "simulate").path, layers_of(store, planned)
    saved = load_masks(path / MASKS, layers)
    technology, dense_core = load_technology("nangate45"), load_hardware("unstructured")
    dense = simulate_network(layers, dense_core, technology)
    rows = read_json(path / SIMULATION)["rows"]
    rule = planned.experiment.finetune
    assert rule is not None
    cores = ["unstructured"] if rule.pattern is None else ["unstructured", "structured"]
    assert [(row["core"], row["masks"]) for row in rows] == [
        (core, origin) for origin in ("measured", "random") for core in cores
    ]
    for row in rows[: len(cores)]:
        core = load_hardware(row["core"])
        single = []
        for image in range(IMAGES):
            own = {
                layer.name: saved.masks[layer.name].reshape(IMAGES, layer.positions, -1)[image]
                for layer in layers
            }
            single.append(simulate_network(layers, core, technology, own))
        cycles = [result.cycles for result in single]
        assert row["cycles"] == pytest.approx(np.mean(cycles))
        assert row["cycles_deviation"] == pytest.approx(np.std(cycles))
        assert row["seconds_over_dense"] == pytest.approx(np.mean(cycles) / dense.cycles)
        assert row["joules"] == pytest.approx(np.mean([result.joules for result in single]))


def test_random_masks_have_as_much_noise(store: Store, planned: Plan) -> None:
    """Exactly with a pattern; with a ratio up to rounding, which is per layer for both."""
    rows = read_json(entry_of(store, planned, "simulate").path / SIMULATION)["rows"]
    of = {origin: [r["density"] for r in rows if r["masks"] == origin] for origin in ("measured", "random")}
    assert of["measured"] == pytest.approx(of["random"])
    for row in rows:
        assert row["noisy_share"] == pytest.approx(1 - row["density"], abs=0.01)


def test_every_image_has_random_masks_of_its_own(store: Store, planned: Plan) -> None:
    """The unstructured core tells them apart."""
    rows = read_json(entry_of(store, planned, "simulate").path / SIMULATION)["rows"]
    [deviation] = [
        row["cycles_deviation"] for row in rows if (row["core"], row["masks"]) == ("unstructured", "random")
    ]
    assert deviation > 0


def test_where_the_cycles_went_adds_up(store: Store, planned: Plan) -> None:
    path = entry_of(store, planned, "simulate").path
    table = polars.read_csv(path / "layers.csv")
    numbers = ("core", "layer", "density", "cycles", "energy_pj")
    causes = table.select(polars.exclude(numbers)).sum_horizontal()
    assert causes.to_list() == pytest.approx([1.0] * len(table))
    for row in (r for r in read_json(path / SIMULATION)["rows"] if r["masks"] == "measured"):
        of_core = table.filter(polars.col("core") == row["core"])
        assert of_core["cycles"].sum() == pytest.approx(row["cycles"])
        assert of_core["energy_pj"].sum() == pytest.approx(row["joules"] * 1e12)


def test_metrics_name_every_figure(store: Store, planned: Plan) -> None:
    entry = entry_of(store, planned, "simulate")
    rows = read_json(entry.path / SIMULATION)["rows"]
    for row in rows:
        for name in FIGURES:
            relative = f"{name}_over_dense"
            assert entry.metrics[f"{name}/{row['core']}/{row['masks']}"] == row[name]
            assert entry.metrics[f"{relative}/{row['core']}/{row['masks']}"] == row[relative]
    assert len(entry.metrics) == 1 + 2 * len(FIGURES) * len(rows)


def test_equal_runs_are_equal_bytes(store: Store, planned: Plan, tmp_path: Path) -> None:
    again = ensure("simulate", planned, store=Store(tmp_path))
    assert again.manifest.files == entry_of(store, planned, "simulate").manifest.files


@pytest.mark.parametrize(
    ("section", "change", "moves"),
    [
        ("simulate", {"images": 4}, True),
        ("simulate", {"cores": ["unstructured"]}, True),
        ("simulate", {"technology": "horowitz45"}, True),
        ("simulate", {"dram_bytes_per_cycle": 16}, True),
        ("attack", {"images": 10}, False),
    ],
)
def test_what_moves_its_key(section: str, change: dict[str, Any], moves: bool) -> None:
    content = with_simulation()
    before = ExperimentSet.model_validate(content).experiments()[1]
    content[section] |= change
    after = ExperimentSet.model_validate(content).experiments()[1]
    keys = [stage_keys(experiment, "data") for experiment in (before, after)]
    assert (keys[0]["simulate"] != keys[1]["simulate"]) == moves
    assert keys[0]["finetune"] == keys[1]["finetune"]


def test_its_key_knows_what_a_core_is(plans: list[Plan]) -> None:
    """Another value in a core's file is another result, whatever the core is called."""
    config = stage_config("simulate", plans[1].experiment)
    assert config["hardware"] == [load_hardware(core).model_dump() for core in config["cores"]]
    assert config["technology_digest"] == load_technology("nangate45").digest


def simulated_again(changed: Plan, store: Store, folder: Path) -> Entry:
    """The stage in a store of its own, with the networks of `store`."""
    for stage in stages_before("finetune", changed.experiment):
        entry = entry_of(store, changed, stage)
        target = folder / stage / entry.manifest.key
        target.parent.mkdir(parents=True)
        target.symlink_to(entry.path)
    return ensure("simulate", changed, store=Store(folder))


def test_memory_outside_takes_time(plans: list[Plan], store: Store, tmp_path: Path) -> None:
    [_, slow, _] = plans_of(with_simulation(dram_bytes_per_cycle=1))
    rows = read_json(simulated_again(slow, store, tmp_path).path / SIMULATION)["rows"]
    within = read_json(entry_of(store, plans[1], "simulate").path / SIMULATION)["rows"]
    assert rows[0]["cycles"] > within[0]["cycles"]
    assert rows[0]["joules"] > within[0]["joules"]


def test_images_of_a_batch_are_computed_together(store: Store, tmp_path: Path) -> None:
    [_, both, _] = plans_of(with_simulation(batch_size=2))
    entry, layers = simulated_again(both, store, tmp_path), layers_of(store, both)
    rows = read_json(entry.path / SIMULATION)["rows"]
    saved = load_masks(entry.path / MASKS, layers)
    core, technology = load_hardware("unstructured"), load_technology("nangate45")
    result = simulate_network(layers, core, technology, saved.masks, images=2)
    dense = simulate_network(layers, core, technology, images=2)
    assert {row["images"] for row in rows} == {2}
    assert rows[0]["cycles"] == result.cycles
    assert rows[0]["seconds_over_dense"] == pytest.approx(result.cycles / dense.cycles)


def test_the_masks_of_a_random_network_follow_from_its_seed(store: Store, tmp_path: Path) -> None:
    """A layer draws one of its projections for each batch: the same ones with equal seeds, else others."""
    content = with_simulation()
    content["finetune"]["pattern"] = []
    content["distill"] |= {"randomize": "bank", "bank_size": 3}
    [_, banked] = plans_of(content)
    for stage in ("prepare", "pretrain"):
        entry = entry_of(store, banked, stage)
        (tmp_path / stage).mkdir()
        (tmp_path / stage / entry.manifest.key).symlink_to(entry.path)
    own = Store(tmp_path)
    inputs = {stage: ensure(stage, banked, store=own).path for stage in ("prepare", "finetune")}

    def masks_with(seed: int, name: str) -> bytes:
        out = tmp_path / name
        out.mkdir()
        simulate.run(stage_section("simulate", banked.experiment), inputs, out, seed=seed, runtime=Runtime())
        return (out / MASKS).read_bytes()

    first = masks_with(0, "first")
    assert masks_with(0, "again") == first
    assert masks_with(1, "other") != first


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"cores": ["structurd"]}, "unknown core 'structurd'; did you mean 'structured'?"),
        ({"cores": []}, "simulate: cores: expected at least one design"),
        ({"technology": "nangate54"}, "unknown technology 'nangate54'; did you mean 'nangate45'?"),
        ({"images": 3, "batch_size": 2}, "images 3 is no multiple of batch_size 2"),
        ({"imagse": 3}, "did you mean 'images'?"),
        ({"cores": ["structured"]}, "none of structured can run 90%"),
        ({"images": 1000}, "1000"),
    ],
)
def test_what_cannot_work_is_one_line(change: dict[str, Any], expected: str, tmp_path: Path) -> None:
    content = with_simulation(**change)
    content["finetune"]["pattern"] = []
    params = tmp_path / "params.yaml"
    params.write_text(json.dumps(content))  # JSON is YAML
    options = [f"--{name}={tmp_path / name}" for name in ("outputs", "metrics", "plots", "store")]
    threads = torch.get_num_threads()
    result = CliRunner().invoke(
        stage_app("simulate"), ["--params", str(params), "--no-tracking", "--threads=1", *options]
    )
    torch.set_num_threads(threads)
    assert result.exit_code == 2
    [error] = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert expected in error
