"""The benchmark at paper scale: what it computes, that it needs no more than PyTorch, its arithmetic."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from small_chain import write_cifar
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmarks import paper_scale
from benchmarks.chain_plan import Step, paper_chain
from benchmarks.chain_run import Done
from benchmarks.chain_work import network_macs, stage_flop, training_passes
from benchmarks.gpu_peaks import bf16_peak
from nenni_core.chain.record import Record
from nenni_core.chain.speed import TIMING
from nenni_core.data import Extent, dataset_extent
from nenni_core.models import build_model
from nenni_core.training import Recipe, train
from pipeline.experiment import ExperimentSet, load_parameters

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_bare_pytorch_image_is_enough(tmp_path: Path) -> None:
    """All of `nenni_core` is imported, and a whole chain computed, where nothing else is installed."""
    folder = write_cifar(tmp_path)
    child = Path(__file__).with_name("bare_child.py")
    result = subprocess.run(
        [sys.executable, str(child), str(folder), str(tmp_path / "out")],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.strip() == "nothing else 8"


def test_it_is_the_papers_configuration_but_for_what_is_said() -> None:
    """paper/params.yaml, with the departures that `paper_chain` names."""
    paper = load_parameters(ROOT / "paper" / "params.yaml")
    here = ExperimentSet.model_validate(paper_chain(epochs=200, images=None).parameters("there"))

    def differing(section: str) -> set[str]:
        there, own = (getattr(each, section).model_dump() for each in (paper, here))
        return {name for name in there if there[name] != own[name]}

    assert differing("prepare") == {"path"}
    assert differing("pretrain") == {"precision", "defense"}  # the table's other defences
    assert here.pretrain.defense == paper.pretrain.defense[:1]
    assert differing("distill") == {"solver"}
    assert differing("finetune") == {"precision", "ratio", "pattern", "defenses"}
    assert set(here.finetune.ratio) < set(paper.finetune.ratio)
    assert set(here.finetune.pattern) < set(paper.finetune.pattern)
    assert differing("attack") == {"attacks"}
    assert here.attack.attacks.items() <= paper.attack.attacks.items()
    labels = {experiment.label for experiment in here.experiments()}
    assert labels == {step.label for step in paper_chain().steps() if step.stage == "attack"}


class CountedOperations(TorchDispatchMode):
    """Sums PyTorch's own formulas for the operations that are run."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if (formula := flop_registry.get(func._overloadpacket)) is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=result)
        return result


def test_operations_are_those_that_pytorch_counts() -> None:
    """An independent count of a training: convolutions, forward and backward, as they are run."""
    extent = Extent(train_images=16, test_images=1, image_shape=(3, 16, 16), num_classes=10)
    recipe = Recipe(epochs=1, batch_size=8, steps=2, validation_steps=1)
    model = build_model("small_resnet", num_classes=10, image_size=16)
    images = torch.zeros(16, 3, 16, 16, dtype=torch.uint8)
    labels = torch.arange(16) % 10
    with CountedOperations() as counter:
        train(model, images, labels, images[:8], labels[:8], recipe, seed=0, checkpoint_dir=None)
    step = Step("pretrain", "", paper_chain().pretrain, 0, ())
    step = step._replace(settings=type(step.settings)(architecture="small_resnet", defense={}, recipe=recipe))
    counted = stage_flop(step, network_macs("small_resnet", extent), {"train": 16, "validation": 8})
    assert counted is not None
    # PyTorch's count has the classifier too, and the look at the number of classes
    assert counted == pytest.approx(counter.total, rel=0.03)


def test_pgd_10_for_200_epochs() -> None:
    """23 forward passes' worth; the gradients of weights that an attack does not need would be 10 more."""
    macs = network_macs("resnet18", dataset_extent("cifar10"))
    planes = [(32, 3, 64, 9)] + 4 * [(32, 64, 64, 9)]
    for size, narrow, wide in ((16, 64, 128), (8, 128, 256), (4, 256, 512)):
        planes += [(size, narrow, wide, 9), (size, narrow, wide, 1), *(3 * [(size, wide, wide, 9)])]
    assert macs == sum(size**2 * inputs * outputs * taps for size, inputs, outputs, taps in planes)
    recipe = Recipe(epochs=200)
    passes = training_passes(recipe, 50_000, 0, adversarial=True)
    assert passes == 200 * 50_000 * 23
    assert 2 * macs * passes == pytest.approx(2.55e17, rel=0.01)
    assert 2 * macs * (passes + recipe.epochs * 50_000 * recipe.steps) == pytest.approx(3.67e17, rel=0.01)


def test_clean_training_is_three_passes() -> None:
    recipe = Recipe(epochs=2, steps=10, validation_steps=3)
    assert training_passes(recipe, 100, 10, adversarial=False) == 2 * (100 * 3 + 10 * 8)
    assert training_passes(recipe, 100, 10, adversarial=True) == 2 * (100 * 23 + 10 * 8)


@pytest.mark.parametrize(
    ("name", "multiprocessors", "operations_a_clock", "clock"),
    [
        ("NVIDIA B200", 148, 8192, 1.856e9),
        ("NVIDIA H100 80GB HBM3", 132, 4096, 1.83e9),
        ("NVIDIA H100 PCIe", 114, 4096, 1.62e9),
        ("NVIDIA H200", 132, 4096, 1.83e9),
        ("NVIDIA GH200 480GB", 132, 4096, 1.83e9),
        ("NVIDIA A100-SXM4-40GB", 108, 2048, 1.41e9),
        ("A100-SXM4-80GB", 108, 2048, 1.41e9),
        ("NVIDIA A100 80GB PCIe", 108, 2048, 1.41e9),
        ("NVIDIA A40", 84, 1024, 1.74e9),
        ("NVIDIA A10", 72, 1024, 1.695e9),
        ("NVIDIA L40S", 142, 1024, 2.52e9),
        ("NVIDIA L4", 58, 1024, 2.04e9),
        ("NVIDIA GeForce RTX 4090", 128, 512, 2.52e9),
        ("NVIDIA GeForce RTX 3090", 82, 512, 1.695e9),
    ],
)
def test_peaks_follow_from_what_the_chip_is_made_of(
    name: str, multiprocessors: int, operations_a_clock: int, clock: float
) -> None:
    """Data sheets print what multiprocessors, their dense bf16 operations a clock and the clock come to.

    A figure with sparsity would be twice that.
    """
    assert bf16_peak(name) == pytest.approx(multiprocessors * operations_a_clock * clock, rel=0.015)


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA A10G",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA A100-SXM4-40GB MIG 3g.20gb",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA H20",
        "Tesla V100-SXM2-16GB",
        "cpu",
    ],
)
def test_the_peak_of_another_device_is_not_guessed(name: str) -> None:
    assert bf16_peak(name) is None


def test_a_line_says_the_share_of_the_peak_or_that_it_is_not_known(tmp_path: Path) -> None:
    """Two passes of 10 images in 2 s, of a network of 1e12 multiply-accumulates: 2e13 operations a second."""
    (tmp_path / TIMING).write_text('{"seconds/clean": 2.0, "peak_memory_bytes": 3000000000}')
    step = Step("attack", "dense", paper_chain(attacks="own").attack, 0, ())
    metrics = {
        "accuracy/worst_case": 0.8,
        "forwards/fgsm": 5.0,
        "backwards/fgsm": 5.0,
        "images": 10.0,
        "accuracy/clean": 0.8,
    }

    def shown(device: str, device_name: str) -> str:
        record = SimpleNamespace(metrics=metrics, seconds=2.5, device=device, device_name=device_name)
        return paper_scale.line(
            Done(step, tmp_path, cast(Record, record)), 10**12, {"train": 1, "validation": 1}
        )

    known = shown("cuda", "NVIDIA A100-SXM4-40GB")
    assert "clean 80.00%; 2.5 s; 4e+13 FLOP, 20 TFLOP/s" in known
    assert known.endswith(f"share of the bf16 peak {100 * 2e13 / 312e12:.1f}%; peak memory 3.00 GB")
    unknown = shown("cuda", "NVIDIA A10G")
    assert "share of the bf16 peak unknown ('NVIDIA A10G' is not in benchmarks/gpu_peaks.py)" in unknown
    assert "share" not in shown("cpu", "cpu")
    assert "worst case" not in known  # CW and DeepFool have no radius: none is lost to them
    rates = {"images_per_second/clean": 900.0, "images_per_second/cw_l2": 0.07}
    (tmp_path / TIMING).write_text(json.dumps(rates))
    assert shown("cpu", "cpu").endswith("; 2.5 s; cw_l2 0.07 images/s")
    (tmp_path / TIMING).write_text(json.dumps(rates | {"images_per_second/pgd20": 30.0}))
    assert shown("cpu", "cpu").endswith("; 2.5 s; PGD-20 30 images/s")
    step = step._replace(settings=paper_chain(attacks="paper").attack)
    assert "clean 80.00%, worst case 80.00%; " in shown("cpu", "cpu")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--data d --out o --minutes 0", "--minutes: expected minutes above 0, found '0'"),
        ("--data d --out o --epochs 31", "--epochs: invalid choice: 31"),
        ("--data nowhere --out o --device cpu", "cifar10: no data at 'nowhere'"),
        ("--data d --out o --device tpu", "device 'tpu' cannot be used here"),
        ("--data d --out o --device meta", "device 'meta' cannot be used here"),
        ("--data d --out o --seed -1", "--seed: expected a whole number from 0 on, found '-1'"),
        (
            "--data d --out o --device cpu --attacks none --images 10001",
            "--images is 10001; expected 1 to 10000, as many as there are",
        ),
        ("--out o", "the following arguments are required: --data"),
    ],
)
def test_mistakes_are_told_in_one_line(
    arguments: str,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    strictness, threads = torch.get_deterministic_debug_mode(), torch.get_num_threads()
    monkeypatch.setattr(sys, "argv", ["paper_scale", *arguments.split()])
    try:
        with pytest.raises(SystemExit) as caught:
            paper_scale.main()
    finally:
        torch.set_deterministic_debug_mode(strictness)
        torch.set_num_threads(threads)
    assert caught.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert expected in line
