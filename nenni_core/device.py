"""PyTorch's settings, and which device there is."""

import os

import torch
import torch.utils.deterministic

from nenni_core.allocation import keep_freed_memory
from nenni_core.errors import InputError


def configure_torch(threads: int | None, device: str = "cpu") -> None:
    """Deterministic algorithms, memory kept for reuse; `threads` CPU threads, or PyTorch's own choice.

    On the CPU an operation without a deterministic algorithm is an error. On an accelerator it is a warning:
    `kthvalue`, for one, is refused there although its values (not its indices) are deterministic.
    """
    # cuBLAS reads this when it is first used
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    keep_freed_memory()
    if threads is not None:
        torch.set_num_threads(threads)
    # does what `use_deterministic_algorithms(True)` does, without importing the compiler (seconds)
    torch.set_deterministic_debug_mode("error" if device == "cpu" else "warn")
    # PyTorch would also fill each new tensor before it is written, which takes a tenth of a training step
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    # TF32 would round inputs of float32 products to 10 bits
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def choose_device(name: str) -> str:
    """`name`, or for "auto" the accelerator if there is one; `InputError` if PyTorch cannot use it."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).item()  # there are devices whose tensors have no values
    except (RuntimeError, AssertionError) as error:
        first_line = str(error).splitlines()[0]
        raise InputError(f"device {name!r} cannot be used here: {first_line}") from error
    return name
