"""The same work on many images by several threads, with the results in the order of the images."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")

# What the activations of all images that are under way may take together, where nobody chose the workers.
_MEMORY_BYTES = 1 << 30


def usual_workers(bytes_per_image: int) -> int:
    """One per core, and fewer where what an image gives is large."""
    fitting = _MEMORY_BYTES // max(1, bytes_per_image) - 1
    return max(1, min(len(os.sched_getaffinity(0)), fitting))


def in_order(work: Callable[[int], Result], positions: Iterable[int], workers: int) -> Generator[Result, None, None]:
    """`work` of each position, yielded in order; no more than `workers` results wait or are being made."""
    if workers == 1:
        yield from map(work, positions)
        return
    pending: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="edgemim-calibration")
    try:
        for position in positions:
            pending.append(pool.submit(work, position))
            if len(pending) > workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
