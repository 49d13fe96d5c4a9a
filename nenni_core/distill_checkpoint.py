"""What a distillation has done so far, kept so that after an interruption it goes on to the same bits."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nenni_core.checkpoint import digest, latest_checkpoint, refuse_another_run, write_checkpoint
from nenni_core.layers import NoisyLayer
from nenni_core.moments import Moments

FORMAT = 1
"""Raised when a checkpoint of an older form cannot be read any more."""

CHECKPOINT_INTERVAL = 64
"""Measured batches between two checkpoints."""

LayerMoments = dict[str, list[Moments]]
"""Of each layer, for each of its projections."""


@dataclass(frozen=True, kw_only=True)
class Done:
    """How far a distillation is."""

    batches: int = 0
    """Measured."""
    epochs: int = 0
    """Descended."""
    tensors: dict[str, Tensor] = field(default_factory=dict, repr=False)
    """Of the checkpoint, as `restore_descent` reads them."""
    rates: tuple[float, ...] = ()
    """Learning rate of each layer in the next epoch."""


@dataclass(frozen=True)
class Descent:
    """What changes while layers are fitted by gradient descent."""

    layers: Mapping[str, NoisyLayer]
    optimizer: torch.optim.SGD
    schedule: torch.optim.lr_scheduler.CosineAnnealingLR

    def tensors(self) -> dict[str, Tensor]:
        """Parameters and momenta by name."""
        found = {}
        for name, layer in self.layers.items():
            for kind, parameter in (("weight", layer.approx_weight), ("bias", layer.approx_bias)):
                found[f"{name}/{kind}"] = parameter.detach()
                momentum = self.optimizer.state[parameter].get("momentum_buffer")
                if momentum is not None:
                    found[f"{name}/{kind}/momentum"] = momentum
        return found

    def restore(self, done: Done) -> None:
        """Go on where `done` is."""
        if done.epochs == 0:
            return
        for name, layer in self.layers.items():
            for kind, parameter in (("weight", layer.approx_weight), ("bias", layer.approx_bias)):
                with torch.no_grad():
                    parameter.copy_(done.tensors[f"{name}/{kind}"])
                if (momentum := done.tensors.get(f"{name}/{kind}/momentum")) is not None:
                    self.optimizer.state[parameter]["momentum_buffer"] = momentum.to(parameter.device)
        for group, rate in zip(self.optimizer.param_groups, done.rates, strict=True):
            group["lr"] = rate
        self.schedule.load_state_dict({"last_epoch": done.epochs, "_step_count": done.epochs + 1})


class Kept:
    """The checkpoints of one distillation; without a `directory` nothing is kept."""

    def __init__(
        self,
        directory: Path | None,
        model: nn.Module,
        layers: Mapping[str, NoisyLayer],
        first_batch: Tensor | None,
        **settings: int | float | str,
    ) -> None:
        self._directory, self._layers = directory, layers
        self._identity: dict[str, object] = {}
        if directory is not None:
            self._identity = {
                "format": FORMAT,
                **settings,
                "device type": next(model.parameters()).device.type,
                "model": digest(model.state_dict()),
                "injection": sorted({repr(layer.injection) for layer in layers.values()}),
                "first batch": "" if first_batch is None else digest({"images": first_batch}),
            }

    def restore(self, moments: LayerMoments) -> Done:
        """Fill `moments` and the layers' formats of P x from the newest whole checkpoint, if there is one.

        Raises `InputError` for that of another distillation.
        """
        found = None if self._directory is None else latest_checkpoint(self._directory)
        if self._directory is None or found is None:
            return Done()
        tensors, record = found
        refuse_another_run(record["identity"], self._identity, self._directory.name)
        for name, layer in self._layers.items():
            layer.projected_exponent.copy_(tensors[f"{name}/projected_exponent"])
            for index, moment in enumerate(moments[name]):
                moment.count = record["counts"][name]
                moment.sums = {sum_: tensors[f"{name}/{index}/{sum_}"] for sum_ in moment.sums}
        return Done(
            batches=record["batches"],
            epochs=record["epochs"],
            tensors=tensors,
            rates=tuple(record["rates"]),
        )

    def is_due(self, batches: int) -> bool:
        """Whether there is to be a checkpoint after so many measured batches."""
        return self._directory is not None and batches % CHECKPOINT_INTERVAL == 0

    def save(self, moments: LayerMoments, done: Done, descent: Descent | None = None) -> None:
        """Keep what is known when so much is `done`."""
        if self._directory is None:
            return
        tensors = {} if descent is None else descent.tensors()
        for name, layer in self._layers.items():
            tensors[f"{name}/projected_exponent"] = layer.projected_exponent
            for index, moment in enumerate(moments[name]):
                tensors |= {f"{name}/{index}/{sum_}": total for sum_, total in moment.sums.items()}
        record: dict[str, Any] = {
            "identity": self._identity,
            "counts": {name: moments[name][0].count for name in self._layers},
            "batches": done.batches,
            "epochs": done.epochs,
            "rates": [] if descent is None else [group["lr"] for group in descent.optimizer.param_groups],
        }
        write_checkpoint(self._directory, done.batches + done.epochs, tensors, record)
