"""Contexts that leave a model, the global random generators and the precision settings as they were found."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from nenni_core.modes import eval_mode, kept_streams


@contextmanager
def frozen_for_evaluation(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and no parameter gradients inside; afterwards all is as before, module by module.

    Restored are each module's own `training` flag (so a batch norm that was frozen by hand inside a
    training model stays frozen), each parameter's `requires_grad`, and the noise stream of each random
    layer. With `requires_grad` off nothing can accumulate into a parameter's `.grad`.
    """
    requires_grad = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    with kept_streams(model), eval_mode(model):
        try:
            for parameter, _ in requires_grad:
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter, flag in requires_grad:
                parameter.requires_grad_(flag)


@contextmanager
def seeded_global_generators(seed: int, device: torch.device) -> Iterator[None]:
    """Global generators (PyTorch on the CPU and `device`, NumPy, Python) seeded inside, as before after.

    For third-party code only, which draws from them or even reseeds them; our own code has generators.
    """
    cuda = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=cuda):
        # Not torch.manual_seed: that also reseeds accelerators which are not in use yet, beyond recall.
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Float32 as written: no autocast, no TF32 convolutions, and only algorithms that repeat to the bit."""
    cudnn = torch.backends.cudnn
    with (
        torch.autocast(device.type, enabled=False),
        cudnn.flags(enabled=cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=False),
    ):
        yield
