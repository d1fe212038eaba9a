"""Memory that a process keeps for its next tensors, instead of asking the kernel for each anew."""

import ctypes
from functools import cache

TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4
"""Parameters of glibc's ``mallopt``, as ``malloc.h`` has them."""
KEEP = 2**31 - 1
PAD = 64 * 2**20


@cache
def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, up to its peak, until it ends.

    By default glibc maps each large tensor anew, and the kernel clears its pages one by one: a
    sixth of the time of judging 500 images by a ResNet-18 on a CPU (docs/performance.md). No
    number changes.

    Returns:
        Whether it could be done; elsewhere than with glibc it cannot, and nothing changes.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    settings = ((MMAP_MAX, 0), (TRIM_THRESHOLD, KEEP), (TOP_PAD, PAD))
    return all([bool(mallopt(key, value)) for key, value in settings])
