"""Ratios by layer through the stages: equal rules give equal files, mistakes are found before training."""

import copy
from pathlib import Path
from typing import Any

import polars
import pytest
from safetensors.numpy import load_file
from stored_stages import plans_of
from tiny_experiment import TINY

from hwsim.layers import Layer
from hwsim.masks import load_masks
from nenni_core.bitops import bitops
from nenni_core.chain.artifacts import MODEL, ModelSpec, load_model, load_prepared
from nenni_core.chain.finetune import BITOPS
from nenni_core.errors import InputError
from nenni_core.files import read_json
from nenni_core.inject import injected_layers
from nenni_core.shapes import layer_shapes
from pipeline.data_check import layer_names
from pipeline.runner import Plan, ensure, plan
from pipeline.stages.simulate import MASKS, SIMULATION
from pipeline.store import Store

IMAGES = 2
SPLIT_SIZES = {"train": 36, "validation": 12, "test": 20}


def with_rules(**rules: Any) -> dict[str, Any]:
    content = copy.deepcopy(TINY)
    content["finetune"] |= {"ratio": [], "dense": False, "epochs": 1} | rules
    content["simulate"] = {"images": IMAGES}
    return content


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("by-layer"))


@pytest.fixture(scope="module")
def layers(store: Store) -> list[str]:
    [planned] = plans_of(with_rules(ratio=[0.9]))
    return layer_names(planned.experiment, ensure("prepare", planned, store=store).path)


@pytest.fixture(scope="module")
def mixed(layers: list[str]) -> dict[str, float]:
    """Nothing in the first layer, then more and more noise."""
    return {name: round(place / len(layers), 3) for place, name in enumerate(layers)}


def folder(store: Store, planned: Plan, stage: str) -> Path:
    return ensure(stage, planned, store=store).path


@pytest.mark.slow
def test_the_same_ratio_in_all_layers_is_the_same_network(store: Store, layers: list[str]) -> None:
    equal = with_rules(ratio=[0.9], layer_ratios={"equal": dict.fromkeys(layers, 0.9)})
    uniform, by_layer = plans_of(equal)
    assert uniform.keys["finetune"] != by_layer.keys["finetune"]
    states = [load_file(folder(store, one, "finetune") / MODEL) for one in (uniform, by_layer)]
    assert states[0].keys() == states[1].keys()
    assert all(value.tobytes() == states[1][name].tobytes() for name, value in states[0].items())
    for file in (BITOPS, "densities.json", "history.json"):
        assert read_json(folder(store, uniform, "finetune") / file) == read_json(
            folder(store, by_layer, "finetune") / file
        )
    rows = [read_json(folder(store, one, "simulate") / SIMULATION)["rows"] for one in (uniform, by_layer)]
    for one, other in zip(*rows, strict=True):
        assert (one["noise"], other["noise"]) == ("90%", "by layer")
        assert other == pytest.approx(one | {"noise": "by layer"}, abs=1e-12)


@pytest.mark.slow
def test_each_layer_has_its_own_amount_of_noise(store: Store, mixed: dict[str, float]) -> None:
    [planned] = plans_of(with_rules(layer_ratios={"mixed": mixed}))
    tuned = folder(store, planned, "finetune")
    model, data = load_model(tuned), load_prepared(folder(store, planned, "prepare"))
    assert {name: layer.injection.ratio for name, layer in injected_layers(model).items()} == mixed
    nominal = bitops(model, data.image_shape)
    assert read_json(tuned / BITOPS)["nominal"] == nominal.total
    simulated = folder(store, planned, "simulate")
    shapes = [Layer(**vars(shape)) for shape in layer_shapes(model, data.image_shape)]
    saved = load_masks(simulated / MASKS, shapes)
    for row in read_json(simulated / SIMULATION)["rows"]:
        outputs = sum(shape.output_values for shape in shapes)
        noisy = sum(mixed[shape.name] * shape.output_values for shape in shapes) / outputs
        assert row["noisy_share"] == pytest.approx(noisy)
        assert row["density"] == pytest.approx(1 - noisy, abs=0.01)
    for shape in shapes:
        assert 1 - saved.masks[shape.name].mean() == pytest.approx(mixed[shape.name], abs=0.02)


def test_no_noise_at_all_is_the_dense_machine(store: Store, layers: list[str]) -> None:
    [planned] = plans_of(with_rules(layer_ratios={"none": dict.fromkeys(layers, 0)}))
    for row in read_json(folder(store, planned, "simulate") / SIMULATION)["rows"]:
        assert row["energy_delay_joule_seconds_over_dense"] == 1
    assert ensure("finetune", planned, store=store).metrics["bitops_ratio"] == 1


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"stem.convolution": 0.5}, "finetune.layer_ratios.wrong: unknown layer 'stem.convolution'"),
        ({}, "have no ratio, the first of them"),
    ],
)
def test_wrong_layers_are_named_before_anything_is_trained(
    tmp_path: Path, layers: list[str], change: dict[str, float], expected: str
) -> None:
    ratios = dict.fromkeys(layers[1:], 0.5) | change
    [planned] = plans_of(with_rules(layer_ratios={"wrong": ratios}))
    with pytest.raises(InputError) as caught:
        ensure("attack", planned, store=Store(tmp_path))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("pretrain/*"))


def test_descriptions_without_layers_ratios_are_as_they_were() -> None:
    spec = ModelSpec(
        name="small_resnet", num_classes=10, in_channels=1, image_size=8, mean=(0.5,), std=(1.0,)
    )
    assert "layer_ratios" not in spec.to_json()
    assert ModelSpec.from_json(spec.to_json()) == spec


@pytest.mark.slow
@pytest.mark.parametrize("split", ["test", "validation"])
def test_a_search_looks_at_other_images_than_a_report(store: Store, split: str) -> None:
    """Equal but for the images; the network before is shared."""
    content = with_rules(ratio=[0.9])
    content["attack"]["images"] = None
    [planned] = plans_of(content)
    [other] = plan([planned.experiment.model_copy(update={"split": split})])
    assert (other.keys == planned.keys) == (split == "test")
    assert other.keys["finetune"] == planned.keys["finetune"]
    found = ensure("attack", other, store=store)
    assert found.metrics["images"] == SPLIT_SIZES[split]
    data = load_prepared(ensure("prepare", planned, store=store).path)
    labels = polars.read_parquet(found.path / "records.parquet")["label"].to_list()
    assert labels == data.split(split).labels.tolist()
