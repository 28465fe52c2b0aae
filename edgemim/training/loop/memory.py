"""Memory that stays with the process from one step to the next, where it trains on a CPU.

glibc hands large blocks back to the system as soon as they are freed, and what a step asks for anew the kernel has to
clear and map page by page: gigabytes in every step, all of which the next step needs again.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# Of malloc.h: parameters of mallopt, and their defaults.
_TRIM_THRESHOLD, _TRIM_DEFAULT = -1, 128 * 1024
_MMAP_MAX, _MMAP_DEFAULT = -4, 65_536
_NEVER = -1


@contextmanager
def kept_memory(device: torch.device) -> Iterator[None]:
    """Freed memory is kept for the next step, and given back when the context ends.

    The heap grows in the first steps, to a few blocks more than a step needs at its peak, because a freed block has no
    room for one of the same size and its alignment; then it stays. Without effect on a GPU, whose memory torch keeps
    itself, and where the C library is not glibc.

    Args:
        device: Where the run computes.
    """
    library = ctypes.CDLL(None) if device.type == "cpu" else None
    if library is None or not hasattr(library, "mallopt") or not hasattr(library, "malloc_trim"):
        yield
        return
    # Everything from the heap, and none of the heap back: blocks of their own mapping are unmapped when freed.
    library.mallopt(_MMAP_MAX, 0)
    library.mallopt(_TRIM_THRESHOLD, _NEVER)
    try:
        yield
    finally:
        library.mallopt(_MMAP_MAX, _MMAP_DEFAULT)
        library.mallopt(_TRIM_THRESHOLD, _TRIM_DEFAULT)
        library.malloc_trim(0)
