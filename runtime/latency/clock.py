"""The clock that latencies are read from."""

from __future__ import annotations

from collections.abc import Callable

from edgemim.errors import DeviceError

# Monotonic nanoseconds.
Clock = Callable[[], int]


def went_backwards(name: str, ns: int) -> DeviceError:
    """The error for a clock that was `ns` behind where it had been, while `name` ran."""
    return DeviceError(
        f"the clock went backwards by {ns / 1e6:.3g} ms while {name} was timed: no latency measured here can be "
        "trusted; run on a machine whose monotonic clock keeps going, or mend this one's clock source"
    )
