"""Ordered work on blocks of images in threads: Pillow and hashlib release the GIL, so no processes."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

# Small, since each block of each thread is in memory at once and photos have megabytes.
BLOCK = 64


def map_blocks(work: Callable[[int, int], T], count: int) -> Iterator[T]:
    """`work(start, stop)` for consecutive blocks of `range(count)`, yielded in order.

    At most two blocks per thread are pending, however slowly the caller takes the results. The first
    exception in the order of the blocks is raised and ends the work.
    """
    threads = max(1, min(8, len(os.sched_getaffinity(0))))
    starts = iter(range(0, count, BLOCK))
    pending: deque[Future[T]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="edgemim-data")
    try:
        while True:
            while len(pending) < 2 * threads and (start := next(starts, None)) is not None:
                pending.append(pool.submit(work, start, min(start + BLOCK, count)))
            if not pending:
                return
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
