"""The bf16 peak of GPUs: matrix units, dense, FP32 accumulation, at the boost clock of the data sheet."""

import re

PEAKS: tuple[tuple[str, float, str], ...] = (
    (r"\bH200 NVL\b", 835e12, "NVIDIA H200 data sheet: 1,671 with sparsity"),
    (r"\bH200\b", 989e12, "NVIDIA H200 data sheet: 1,979 with sparsity"),
    (r"\bGH200\b", 989e12, "NVIDIA GH200 data sheet: 990"),
    (r"\bH100 NVL\b", 835e12, "NVIDIA H100 data sheet: 1,671 with sparsity"),
    (r"\bH100 PCIe\b", 756e12, "NVIDIA H100 PCIe product brief: 1,513 with sparsity"),
    (r"\bH100\b.*\bHBM3\b", 989e12, "NVIDIA H100 (SXM) data sheet: 1,979 with sparsity"),
    (r"\bA100\b", 312e12, "NVIDIA A100 data sheet: 312"),
    (r"\bA40\b", 149.7e12, "NVIDIA A40 data sheet: 149.7"),
    (r"\bA10\b", 125e12, "NVIDIA A10 data sheet: 125"),
    (r"\bL40S\b", 362e12, "NVIDIA L40S data sheet: 362"),
    (r"\bL4\b", 121e12, "NVIDIA L4 data sheet: 242 with sparsity"),
    (r"\bRTX 4090\b", 165.2e12, "NVIDIA Ada architecture white paper: 165.2"),
    (r"\bRTX 3090\b", 71e12, "NVIDIA GA102 white paper: 71"),
)
"""Pattern of the device's name as PyTorch says it, operations a second, and where the figure is from."""


def bf16_peak(device_name: str) -> float | None:
    """Operations a second, a multiplication and an addition being two; None for a device not listed."""
    for pattern, peak, _ in PEAKS:
        if re.search(pattern, device_name):
            return peak
    return None
