"""What `python -m pipeline.evaluate` can be asked about, and what it says to a mistake."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from evaluate_call import ADAPTIVE, call
from safetensors.torch import save_file
from torch import nn

from nenni_core.chain.artifacts import ModelSpec, save_model
from nenni_core.files import sha256_of
from nenni_core.inject import inject
from nenni_core.injection import Injection
from nenni_core.models import build_model
from pipeline.networks import find_network

pytestmark = pytest.mark.usefixtures("own_models")


# --- networks --------------------------------------------------------------------------------------------


def stored(folder: Path, *, injection: Injection | None = None, name: str = "model.safetensors") -> nn.Module:
    """Files as a stage writes them, of a small network with weights from a seed."""
    spec = ModelSpec(
        name="small_resnet",
        num_classes=10,
        in_channels=1,
        image_size=8,
        mean=(0.25,),
        std=(0.5,),
        injection=injection,
    )
    model = spec.build(seed=3).eval()
    folder.mkdir(parents=True, exist_ok=True)
    save_model(folder, spec, {name: model.state_dict()})
    return model


@pytest.mark.parametrize("injection", [None, Injection(ratio=0.5), Injection(ratio=None, pattern="3:4")])
@pytest.mark.parametrize("named", ["folder", "file"])
def test_what_a_stage_has_stored_is_read_as_described(
    own_models: Path, injection: Injection | None, named: str
) -> None:
    name = "best.safetensors" if injection is None else "model.safetensors"
    model = stored(own_models / "entry", injection=injection, name=name)
    weights = own_models / "entry" / (name if named == "file" else "")
    found = find_network(str(weights), None)
    images = torch.linspace(0, 1, 2 * 64).view(2, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(found.load((1, 8, 8), 10, "cpu")(images), model(images))
    assert found.summary()["weights_sha256"] == sha256_of(own_models / "entry" / name)
    assert found.summary()["description"]["image_size"] == 8


def test_a_named_network_has_its_normalisation_from_the_weights(own_models: Path) -> None:
    model = build_model(
        "small_resnet", num_classes=10, in_channels=1, image_size=8, mean=[0.2], std=[0.5]
    ).eval()
    save_file(model.state_dict(), own_models / "net.safetensors")
    found = find_network("net.safetensors", "small_resnet").load((1, 8, 8), 10, "cpu")
    images = torch.linspace(0, 1, 2 * 64).view(2, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(found(images), model(images))


def test_an_entry_is_evaluated_with_another_as_surrogate(own_models: Path) -> None:
    stored(own_models / "pretrain", name="best.safetensors")
    stored(own_models / "finetune", injection=Injection(ratio=0.5))
    shown = call("finetune", *ADAPTIVE, "--surrogate", "pretrain", "--out", "found")
    assert shown.exit_code == 0, shown.output
    results = json.loads((own_models / "found" / "results.json").read_text())
    assert results["surrogate"]["weights_sha256"] == sha256_of(own_models / "pretrain" / "best.safetensors")
    assert list(results["attacks"]) == [
        "transfer",
        "apgd_ce",
        "apgd_dlr_targeted",
        "square",
        "autoattack_standard",
    ]


def test_a_network_that_views_its_images_is_shown_them_row_by_row() -> None:
    shown = call("-", "--model", "own:Views", *ADAPTIVE)
    assert shown.exit_code == 0, shown.output


# --- mistakes --------------------------------------------------------------------------------------------

OWN_NETWORK = ("-", "--model", "own:network")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("missing.safetensors", "--model", "small_resnet"), "no file 'missing.safetensors'"),
        (("own.py", "--model", "small_resnet"), "'own.py' is not a safetensors file"),
        (("own.py",), "expected --model, or model.json beside it"),
        ((".",), "expected model.safetensors or best.safetensors"),
        ((), "neither weights nor a model"),
        (("-", "--model", "small_resnet"), "'small_resnet' has no weights of its own"),
        (("-", "--model", "small_resnt"), "did you mean 'small_resnet'?"),
        (("-", "--model", "own.network"), "an import path such as package.module:callable"),
        (("-", "--model", ":network"), "':network' is no import path"),
        (("-", "--model", "nowhere:network"), "cannot import 'nowhere': ModuleNotFoundError"),
        (("-", "--model", "failing:network"), "RuntimeError: no such luck (failing.py line 2)"),
        (("-", "--model", "own:netwrk"), "did you mean 'network'?"),
        (("-", "--model", "own:number"), "is of type int; expected a callable"),
        (("-", "--model", "own:demanding"), "cannot be called: TypeError"),
        (("-", "--model", "own:nothing"), "of type NoneType; expected a torch.nn.Module"),
        (("-", "--model", "own:broken"), "fails on 2 images of 1x8x8: RuntimeError"),
        (("-", "--model", "own:few"), "logits of shape (2, 4) for 2 images, expected (2, 10)"),
        (("-", "--model", "own:pair"), "returned a tuple; expected a tensor"),
        (("-", "--model", "own:no_number"), "are NaN or infinite"),
        (("-", "--model", "own:broken_gradient"), "input gradients are NaN"),
        (("-", "--model", "own:same", "--surrogate", "own:ready"), "the same network twice"),
        ((*OWN_NETWORK, "--surrogate", "missing"), "no file 'missing'"),
        ((*OWN_NETWORK, "--images", "541"), "541; expected 1 to 540"),
        ((*OWN_NETWORK, "--images", "0"), "images: expected greater than 0, found '0'"),
        ((*OWN_NETWORK, "--images", "ten"), "images: expected valid integer"),
        ((*OWN_NETWORK, "--eps", "8"), "eps: expected less than or equal to 1"),
        ((*OWN_NETWORK, "--eps", "8/0"), "expected a number such as 0.1 or 8/255, found '8/0'"),
        ((*OWN_NETWORK, "--step-size", "0"), "step_size: expected greater than 0"),
        ((*OWN_NETWORK, "--queries", "0"), "queries: expected greater than or equal to 1"),
        ((*OWN_NETWORK, "--protocol", "bth"), "did you mean 'both'?"),
        ((*OWN_NETWORK, "--path", "x"), "path is 'x'; expected none"),
        ((*OWN_NETWORK, "--out", "own.py"), "own.py"),
        ((*OWN_NETWORK, "--device", "abacus"), "device 'abacus' cannot be used"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(arguments: tuple[str, ...], words: str) -> None:
    shown = call(*ADAPTIVE, *arguments)
    assert shown.exit_code == 2, shown.output
    lines = shown.stderr.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert words in lines[0]


def test_an_unknown_data_set_has_a_nearest_one() -> None:
    shown = call(*OWN_NETWORK, *ADAPTIVE, dataset="digts")
    assert (shown.exit_code, "did you mean 'digits'?" in shown.stderr) == (2, True)


def test_weights_of_something_else_are_named(own_models: Path) -> None:
    state = build_model("small_resnet", num_classes=10, in_channels=1, image_size=8).state_dict()
    first, *others = state
    changed = {name: state[name] for name in others if not name.endswith("running_var")}
    changed |= {"extra": torch.zeros(1), others[1]: torch.zeros(7)}
    save_file(changed, own_models / "net.safetensors")
    shown = call("net.safetensors", "--model", "small_resnet", *ADAPTIVE)
    assert shown.exit_code == 2
    missing = 1 + sum(name.endswith("running_var") for name in others)
    assert f"{missing} missing: {first}, " in shown.stderr
    assert "1 not expected: extra; 1 of another shape: " in shown.stderr
    assert f"{others[1]} is (7,) and not " in shown.stderr
    assert len(shown.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda entry: (entry / "model.json").write_text("{}"), "does not describe a network"),
        (lambda entry: (entry / "model.json").write_text("[1"), "does not describe a network"),
        (lambda entry: (entry / "manifest.json").write_text("{}"), "is damaged: manifest.json"),
    ],
)
def test_a_damaged_entry_is_refused(own_models: Path, damage: Callable[[Path], object], words: str) -> None:
    stored(own_models / "entry")
    damage(own_models / "entry")
    shown = call("entry", *ADAPTIVE)
    assert (shown.exit_code, words in shown.stderr) == (2, True), shown.stderr


def test_an_entry_for_other_images_is_refused(own_models: Path) -> None:
    stored(own_models / "entry")
    shown = call("entry", *ADAPTIVE, dataset="synthetic")
    assert shown.exit_code == 2
    assert "is for 1x8x8 images of 10 classes; expected 3x16x16 and " in shown.stderr


def test_pickles_are_not_read(own_models: Path) -> None:
    model = inject(
        build_model("small_resnet", num_classes=10, in_channels=1, image_size=8), Injection(ratio=0.5)
    )
    torch.save(model.state_dict(), own_models / "net.pt")
    shown = call("net.pt", "--model", "small_resnet", *ADAPTIVE)
    assert shown.exit_code == 2
    assert "weights are read from no other format" in shown.stderr
