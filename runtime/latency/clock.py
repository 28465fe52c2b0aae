"""The clock that latencies are read from, and what stands still while it runs."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from edgemim.errors import DeviceError

# Monotonic nanoseconds.
Clock = Callable[[], int]


def went_backwards(name: str, ns: int) -> DeviceError:
    """The error for a clock that was `ns` behind where it had been, while `name` ran."""
    return DeviceError(
        f"the clock went backwards by {ns / 1e6:.3g} ms while {name} was timed: no latency measured here can be "
        "trusted; run on a machine whose monotonic clock keeps going, or mend this one's clock source"
    )


@contextmanager
def heap_set_aside() -> Iterator[None]:
    """Collections inside the block look only at what was made in it.

    For many short blocks `without_garbage_collection`: in a process with a large heap each would take half a second.
    """
    ours = gc.get_freeze_count() == 0  # else the program has set its own heap aside
    if ours:
        gc.collect()
        gc.freeze()
    try:
        yield
    finally:
        if ours:
            gc.unfreeze()


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Collect once, then not until the block ends."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
