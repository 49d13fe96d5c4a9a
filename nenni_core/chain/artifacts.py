"""What the stages hand to each other: prepared arrays and models, as safetensors and JSON. No pickles."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save as serialized_arrays
from safetensors.torch import load_file, save
from torch import Tensor, nn

from nenni_core.data import RawDataset, channel_statistics, subset, to_float
from nenni_core.defenses import Defense, make_defense
from nenni_core.files import read_json, write_atomically, write_json
from nenni_core.inject import inject, set_layer_ratios
from nenni_core.injection import Injection
from nenni_core.models import build_model

ARRAYS, DATASET, MODEL, ARCHITECTURE = "arrays.safetensors", "dataset.json", "model.safetensors", "model.json"
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """Images of one split, uint8 (images, channels, height, width) in 0..255, with int64 labels."""

    images: Tensor
    labels: Tensor

    def limited(self, count: int | None, seed: int) -> "Split":
        """A class-balanced choice of `count` images, in their order; all of them for None.

        Raises `InputError` if there are fewer.
        """
        if count is None:
            return self
        index = torch.from_numpy(subset(self.labels.numpy(), count, seed))
        return Split(images=self.images[index], labels=self.labels[index])

    def batches(self, batch_size: int, device: str) -> "Batches":
        """The images as float batches in [0, 1] on `device`; can be iterated any number of times."""
        return Batches(self.images, batch_size, device)


@dataclass(frozen=True)
class Batches:
    """Float batches (batch, channels, height, width) in [0, 1], made anew by each iteration."""

    images: Tensor
    batch_size: int
    device: str

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        for start in range(0, len(self.images), self.batch_size):
            yield to_float(self.images[start : start + self.batch_size].to(self.device))


@dataclass(frozen=True, kw_only=True, eq=False)
class Prepared:
    """The output of the stage `prepare`."""

    train: Split
    validation: Split
    test: Split
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    """Of each channel over the training images, in [0, 1] pixel units."""
    std: tuple[float, ...]

    def split(self, name: str) -> Split:
        """One of `SPLITS` by its name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[name]

    @property
    def num_classes(self) -> int:
        """Number of classes of the data set."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width


def save_prepared(folder: Path, raw: RawDataset, train: np.ndarray, validation: np.ndarray) -> dict[str, int]:
    """Write the arrays of `raw`, its training images split by two index arrays; returns the counts."""
    arrays = {
        "train_images": raw.train_images[train],
        "train_labels": raw.train_labels[train],
        "validation_images": raw.train_images[validation],
        "validation_labels": raw.train_labels[validation],
        "test_images": raw.test_images,
        "test_labels": raw.test_labels,
    }
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    write_atomically(folder / ARRAYS, serialized_arrays(arrays))
    mean, std = channel_statistics(arrays["train_images"])
    counts = {split: len(arrays[f"{split}_labels"]) for split in SPLITS}
    per_class = {
        split: np.bincount(arrays[f"{split}_labels"], minlength=raw.num_classes).tolist() for split in SPLITS
    }
    write_json(
        folder / DATASET,
        {
            "name": raw.name,
            "source": raw.source,
            "class_names": list(raw.class_names),
            "image_shape": list(raw.image_shape),
            "images": counts,
            "images_per_class": per_class,
            "mean": list(mean),
            "std": list(std),
            "sha256": {name: array_digest(array) for name, array in arrays.items()},
        },
    )
    return counts


def array_digest(array: np.ndarray) -> str:
    """SHA-256 of an array's bytes, type and shape."""
    from hashlib import sha256

    header = f"{array.dtype.str} {array.shape}\n".encode()
    return sha256(header + np.ascontiguousarray(array).tobytes()).hexdigest()


def load_prepared(folder: Path) -> Prepared:
    """Read what `save_prepared` has written."""
    arrays = load_arrays(folder / ARRAYS)
    facts = read_json(folder / DATASET)
    splits = {
        name: Split(
            images=torch.from_numpy(arrays[f"{name}_images"]),
            labels=torch.from_numpy(arrays[f"{name}_labels"]),
        )
        for name in SPLITS
    }
    return Prepared(
        **splits,
        class_names=tuple(facts["class_names"]),
        mean=tuple(facts["mean"]),
        std=tuple(facts["std"]),
    )


def defense_of(values: Mapping[str, Any]) -> Defense:
    """The defence of `kind` and hyperparameters as JSON has them; `InputError` for what it cannot have."""
    settings: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
    }
    return make_defense(settings.pop("kind"), **settings)


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """All that is needed to build the network that a file of weights belongs to."""

    name: str
    num_classes: int
    in_channels: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    defense: dict[str, Any] = field(default_factory=lambda: {"kind": "adversarial"})
    """`kind` and hyperparameters of what the network was built and trained by."""
    injection: Injection | None = None
    """None for a dense network."""
    layer_ratios: dict[str, float] | None = None
    """A ratio for each layer, which then counts instead of that of `injection`."""

    @classmethod
    def dense(
        cls,
        architecture: str,
        defense: Mapping[str, Any],
        *,
        num_classes: int,
        image_shape: tuple[int, int, int],
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> "ModelSpec":
        """The network that `defense` (`kind` and hyperparameters) trains; `image_shape` is square."""
        channels, height, width = image_shape
        assert height == width, "data sets have square images"
        return cls(
            name=architecture,
            defense=dict(defense),
            num_classes=num_classes,
            in_channels=channels,
            image_size=height,
            mean=mean,
            std=std,
        )

    def build(self, seed: int = 0) -> nn.Module:
        """The network with fresh weights."""
        model = build_model(
            self.name,
            num_classes=self.num_classes,
            in_channels=self.in_channels,
            image_size=self.image_size,
            mean=self.mean,
            std=self.std,
            seed=seed,
        )
        model = defense_of(self.defense).wrap(model, seed, self.image_shape)
        if self.injection is None:
            return model
        model = inject(model, self.injection)
        return model if self.layer_ratios is None else set_layer_ratios(model, self.layer_ratios)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return self.in_channels, self.image_size, self.image_size

    def with_injection(self, injection: Injection) -> "ModelSpec":
        """The same network with noise."""
        return replace(self, injection=injection)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; layers' ratios only where there are some."""
        values = asdict(self)
        if self.layer_ratios is None:
            del values["layer_ratios"]
        return values

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "ModelSpec":
        """The inverse of `to_json`."""
        injection = value.pop("injection")
        return cls(
            **(value | {"mean": tuple(value["mean"]), "std": tuple(value["std"])}),
            injection=None if injection is None else Injection(**injection),
        )


def save_model(folder: Path, spec: ModelSpec, states: dict[str, dict[str, Tensor]]) -> None:
    """Write the architecture and one file of weights for each of `states` (file name -> state dict)."""
    write_json(folder / ARCHITECTURE, spec.to_json())
    for name, state in states.items():
        tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
        write_atomically(folder / name, save(tensors))


def load_spec(folder: Path) -> ModelSpec:
    """The architecture that `save_model` has written."""
    return ModelSpec.from_json(read_json(folder / ARCHITECTURE))


def load_model(folder: Path, weights: str = MODEL, *, device: str = "cpu") -> nn.Module:
    """A model in evaluation mode with its stored weights; nothing is unpickled."""
    model = load_spec(folder).build()
    model.load_state_dict(load_file(folder / weights))
    return model.to(device).eval()


def teacher_folder(inputs: Mapping[str, Path]) -> Path:
    """Where the dense network is among a stage's inputs: the output of `defend`, or else of `pretrain`."""
    return inputs["defend"] if "defend" in inputs else inputs["pretrain"]
