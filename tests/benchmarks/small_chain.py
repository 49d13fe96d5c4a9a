"""A chain that takes seconds on a CPU, on generated images in the layout of CIFAR-10's binary version."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np

from benchmarks.chain_plan import Chain, paper_chain
from benchmarks.chain_run import Done, run_chain
from nenni_core import data
from nenni_core.attacks import AttackSpec
from nenni_core.chain.prepare import PrepareSettings
from nenni_core.chain.runtime import Runtime
from nenni_core.data.cifar import CIFAR10, CifarLayout, RecordFile
from nenni_core.progress import Deadline

TRAIN, TEST = 12, 20
"""Records of each file."""

SMALL: CifarLayout = dataclasses.replace(
    CIFAR10,
    train_files=tuple(RecordFile(name=file.name, records=TRAIN) for file in CIFAR10.train_files),
    test_files=(RecordFile(name="test_batch.bin", records=TEST),),
)

FOREVER = 1e9


@contextmanager
def small_files_for_cifar10() -> Iterator[None]:
    """CIFAR-10 is the small files meanwhile, also for what remembers how large it is."""
    with patch.dict(data.DATASETS, {"cifar10": small_source()}):
        data.dataset_extent.cache_clear()
        yield
    data.dataset_extent.cache_clear()


def small_source() -> data.DatasetSource:
    """What `DATASETS["cifar10"]` is for the small files."""
    return data._cifar(SMALL)


def write_cifar(root: Path) -> Path:
    """Arbitrary pixels; the classes take turns."""
    folder = root / SMALL.folder
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number, file in enumerate(SMALL.record_files):
        records = rng.integers(0, 256, (file.records, 3073), dtype=np.uint8)
        records[:, 0] = (np.arange(file.records) + 2 * number) % 10
        records.tofile(folder / file.name)
    (folder / SMALL.names_file).write_text("".join(f"class {i}\n" for i in range(10)))
    return folder


def small_chain(*attacks: AttackSpec) -> Chain:
    """Two epochs of two steps; two variants."""
    whole = paper_chain(attacks="none", precision="float32")
    short = {"batch_size": 16, "steps": 1, "validation_steps": 1, "crop_padding": 2}
    return replace(
        whole,
        prepare=PrepareSettings(dataset="cifar10", train_images=None, test_images=None, validation_images=10),
        pretrain=replace(
            whole.pretrain,
            architecture="small_resnet",
            recipe=replace(whole.pretrain.recipe, epochs=2, learning_rate=0.05, **short),
        ),
        distill=replace(whole.distill, batch_size=16),
        finetune=replace(whole.finetune, recipe=replace(whole.finetune.recipe, **short)),
        ratios=(0.9,),
        objectives=("adversarial",),
        attack=replace(whole.attack, attacks=attacks, images=10, batch_size=8, examples=2),
    )


def compute(
    chain: Chain, folder: Path, out: Path, *, deadline: Deadline | None = None, device: str = "cpu"
) -> list[Done]:
    """`run_chain` on the files of `folder`."""
    return run_chain(
        chain,
        out,
        data_fingerprint=data.fingerprint("cifar10", path=folder),
        runtime=Runtime(device=device, data_path=folder),
        deadline=deadline or Deadline(FOREVER),
    )
