"""Watches the machine while something is timed: clocks, heat, and what other processes took.

with EnvironmentWatch() as watch:
    samples = measure_latency(calls, protocol, turn=lambda name, began, ended: watch.window(began, ended))
environment = watch.summary()

A thread reads a few files twice a second. A run whose clocks moved, or whose machine was busy, is marked and never
hidden: `environment.marks`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from edgemim.runtime.device import describe_device, usable_cpus
from edgemim.runtime.environment.sensors import Sensors, own_cpu_s, read_throttle_count
from edgemim.runtime.environment.state import State
from edgemim.runtime.environment.summary import Environment, summarise_environment
from edgemim.runtime.environment.trace import Trace

INTERVAL_S = 0.5
# Of one CPU's time: with many CPUs reading takes longer, and is done less often.
_LARGEST_SHARE = 0.02


class EnvironmentWatch:
    """Reads from the beginning of a `with` block to its end."""

    def __init__(
        self,
        root: Path = Path("/"),
        *,
        interval_s: float = INTERVAL_S,
        clock: Callable[[], int] = time.perf_counter_ns,
        own_s: Callable[[], float] = own_cpu_s,
    ) -> None:
        """Nothing is read yet.

        Args:
            root: The folder that holds `proc`, `sys`, `etc` and `var`.
            interval_s: Seconds between two readings.
            clock: Monotonic nanoseconds, the same as of the windows.
            own_s: CPU time that this process has taken, in seconds.
        """
        self._root, self._interval_s, self._clock, self._own_s = root, interval_s, clock, own_s
        self._times: list[int] = []
        self._rows: list[list[float]] = []
        self._windows: list[tuple[int, int]] = []
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._read_all, name="environment", daemon=True)
        self._after: State | None = None

    def __enter__(self) -> EnvironmentWatch:
        device = describe_device(self._root)
        self._before, self._has_gpu = State.of(device), device.chip is not None
        self._has_card = device.gpu is not None and not self._has_gpu
        self._cpus = usable_cpus()
        self._counted = [read_throttle_count(self._root, self._cpus)]
        self._sensors = Sensors(self._root, self._cpus, self._own_s)
        self.read()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self.read()  # so that the last window lies between two readings
        self._sensors.close()
        self._counted.append(read_throttle_count(self._root, self._cpus))
        self._after = State.of(describe_device(self._root))

    def read(self) -> None:
        """Read once, as the thread does all the time."""
        with self._lock:
            self._times.append(self._clock())
            self._rows.append(self._sensors.read())

    def window(self, began_ns: int, ended_ns: int) -> None:
        """Tell that something was timed between two moments of the clock.

        Clocks count inside the windows only, since an idle processor lowers them; what others took counts from the
        first window's begin to the last one's end. Without any window the whole block counts.
        """
        self._windows.append((began_ns, ended_ns))

    def summary(self) -> Environment:
        """What the readings come to; call it after the block."""
        assert self._after is not None, "call it after the block"
        first, last = self._counted
        return summarise_environment(
            self._trace(),
            self._windows,
            self._before,
            self._after,
            self._cpus,
            throttled=None if first is None or last is None else last - first,
            has_gpu=self._has_gpu,
            has_card=self._has_card,
        )

    def arrays(self, origin_ns: int) -> dict[str, npt.NDArray[np.generic]]:
        """Every reading, for `samples.npz`; call it after the block.

        Args:
            origin_ns: Moment of the clock that times count from.

        Returns:
            `environment.start_ns`, int64 [M], when it was read; `environment.NAME`, float32 [M], nan where it could not
            be read then: `cpu_mhz`, `gpu_mhz`, `temp.ZONE` in degrees Celsius; `others_cpu` and `steal`, shares of the
            CPUs since the reading before, nan in the first.
        """
        trace = self._trace()
        found = {f"environment.{name}": values.astype(np.float32) for name, values in trace.shown().items()}
        return {"environment.start_ns": trace.times - origin_ns, **found}

    def _trace(self) -> Trace:
        return Trace(
            times=np.array(self._times, dtype=np.int64),
            names=self._sensors.names,
            values=np.array(self._rows, dtype=np.float64).reshape(len(self._rows), len(self._sensors.names)),
            cpus=len(self._cpus),
        )

    def _read_all(self) -> None:
        wait = self._interval_s
        while not self._stop.wait(wait):
            before = time.thread_time()
            self.read()
            wait = max(self._interval_s, (time.thread_time() - before) / _LARGEST_SHARE)
