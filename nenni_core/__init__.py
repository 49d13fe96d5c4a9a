"""Noise injection into the non-essential neurons of a network (after arXiv 2402.04325).

>>> from nenni_core import Injection, inject, distill
>>> noisy = inject(model, Injection(ratio=0.9))      # doctest: +SKIP
>>> distill(noisy, batches)                          # doctest: +SKIP
"""

from nenni_core.bitops import BitOps, LayerBitOps, bitops
from nenni_core.distill import LayerQuality, calibrate, distill
from nenni_core.errors import InputError, TrainingDiverged
from nenni_core.inject import (
    dense_mode,
    gradient_mode,
    inject,
    injectable_layers,
    injected_layers,
    set_injection,
    set_layer_ratios,
)
from nenni_core.injection import Injection, Pattern
from nenni_core.masks import mask_densities, masks, pack_mask
from nenni_core.randomness import held_noise, set_noise

__all__ = [
    "BitOps",
    "Injection",
    "InputError",
    "LayerBitOps",
    "LayerQuality",
    "Pattern",
    "TrainingDiverged",
    "bitops",
    "calibrate",
    "dense_mode",
    "distill",
    "gradient_mode",
    "held_noise",
    "inject",
    "injectable_layers",
    "injected_layers",
    "mask_densities",
    "masks",
    "pack_mask",
    "set_injection",
    "set_layer_ratios",
    "set_noise",
]
