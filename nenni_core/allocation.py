"""What the process does with freed memory."""

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)


def keep_freed_memory() -> bool:
    """Let the allocator keep freed tensors' memory for the next ones; whether it can (glibc does).

    By default glibc returns blocks of many megabytes to the system and asks for them again a moment later;
    on a CPU the page faults of that took longer than the arithmetic of selection and mixing, and a tenth of
    a dense network's time. Results do not change.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_MMAP_THRESHOLD, 1 << 30)) and bool(mallopt(_TRIM_THRESHOLD, (1 << 31) - 1))
