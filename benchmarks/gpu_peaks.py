"""The bf16 peak of GPUs: matrix units, dense, FP32 accumulation, at the boost clock of the data sheet."""

import re
from typing import NamedTuple


class Peak(NamedTuple):
    """One row of a data sheet."""

    names: str
    """Pattern of what PyTorch calls the whole device. A slice of one (MIG) has another name."""
    operations: float
    """A second; a multiplication and an addition are two. Without sparsity."""
    source: str
    """Document of NVIDIA, and what it says where that is not the dense figure itself."""


PEAKS: tuple[Peak, ...] = (
    Peak(r"B200", 2250e12, "Blackwell data sheet, HGX B200: 4.5 PFLOPS a GPU with sparsity"),
    Peak(r"H200 NVL", 835.5e12, "H200 data sheet: 1,671 TFLOPS with sparsity"),
    Peak(r"H200", 989.5e12, "H200 data sheet: 1,979 TFLOPS with sparsity"),
    Peak(r"GH200 (480|144)G.*", 990e12, "GH200 Grace Hopper Superchip data sheet: 990 TFLOPS"),
    Peak(r"H100 NVL", 835.5e12, "H100 data sheet, H100 NVL: 1,671 TFLOPS with sparsity"),
    Peak(r"H100 PCIe", 756e12, "H100 architecture white paper, H100 PCIe: 756 TFLOPS"),
    Peak(r"H100 80GB HBM3", 989.4e12, "H100 architecture white paper, H100 SXM5: 989.4 TFLOPS"),
    Peak(r"A100(-SXM4-[48]0GB|-PCIE-40GB| 80GB PCIe)", 312e12, "A100 data sheet: 312 TFLOPS"),
    Peak(r"A40", 149.7e12, "A40 data sheet: 149.7 TFLOPS"),
    Peak(r"A10", 125e12, "A10 data sheet: 125 TFLOPS"),
    Peak(r"L40S", 362.05e12, "L40S data sheet: 362.05 TFLOPS"),
    Peak(r"L4", 121e12, "L4 data sheet: 242 TFLOPS with sparsity"),
    Peak(r"RTX 4090", 165.2e12, "Ada architecture white paper, FP32 accumulate: 165.2 TFLOPS"),
    Peak(r"RTX 3090", 71e12, "GA102 architecture white paper, FP32 accumulate: 71 TFLOPS"),
)


def bf16_peak(device_name: str) -> float | None:
    """Operations a second of the device that PyTorch calls `device_name`; None for one that is not listed.

    The name has to fit as a whole: a laptop's or a part of a GPU is another device.
    """
    name = re.sub(r"^(NVIDIA )?(GeForce )?", "", device_name)
    for peak in PEAKS:
        if re.fullmatch(peak.names, name):
            return peak.operations
    return None
