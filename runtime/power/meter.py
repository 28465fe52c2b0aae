"""Power while something is timed: a thread reads the sensors, and the energy of each timed window is integrated.

with PowerMeter() as meter:
    samples = measure_latency(calls, protocol, turn=meter.window)
power = meter.measure("fp32 on openvino", runs=len(samples["fp32 on openvino"].nanoseconds))

Before the block begins the machine is left alone for some seconds: its idle power. Sessions that take turns are told
apart by their windows. A number that too few readings back is None, and `reason` says why.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from edgemim.runtime.power import ina3221, rapl
from edgemim.runtime.power._base import Source, UnreadableError
from edgemim.runtime.power.trace import Trace, Window, duration

IDLE_S = 10.0
# The chips average over some milliseconds; reading faster than this only costs time of the processor that is measured.
INTERVAL_S = 0.05
LEAST_READINGS = 10
LEAST_COVERAGE = 0.95
# A reader that comes later than this has left a hole: too much can happen in it.
_LONGEST_GAP_S = 0.2
# Of a turn: what the chip averages over may reach this far into the neighbour's.
_LONGEST_AVERAGE = 0.1
_NS_PER_S = 1e9
_MJ_PER_J = 1e3
_NO_SENSOR = (
    "no power sensor that edgemim can read: neither the INA3221 of a Jetson nor the RAPL counters of an x86 processor, "
    "which a virtual machine does not show"
)


@dataclass(frozen=True, kw_only=True)
class Power:
    """Power and energy of one session's timed runs; None where they could not be measured.

    Attributes:
        source: Kind of sensor.
        scope: What the total covers, in words.
        total: The rails that it is the sum of.
        energy_mj: Energy of one run, in millijoules: the power of the timed windows times their length, over the runs.
        above_idle_mj: The same, less what the idle machine takes in that time.
        mean_w, peak_w: Of the total, in the timed windows.
        idle_w: Of the total, before anything was timed; what is loaded stays loaded.
        rails_w: Mean of every rail in the timed windows.
        readings: How many fell into the timed windows.
        coverage: Share of the timed windows without a hole between readings, 0 to 1.
        reason: Why there is no energy; None if there is.
    """

    source: str | None = None
    scope: str | None = None
    total: str | None = None
    energy_mj: float | None = None
    above_idle_mj: float | None = None
    mean_w: float | None = None
    peak_w: float | None = None
    idle_w: float | None = None
    rails_w: dict[str, float] | None = None
    readings: int = 0
    coverage: float | None = None
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the report."""
        return asdict(self)


def find_source(root: Path = Path("/")) -> Source:
    """The power sensors of this machine; `root` is the folder that holds `sys`.

    Raises:
        UnreadableError: There are none, or they may not be read.
    """
    for find in (ina3221.find, rapl.find):
        source = find(root)
        if source is not None:
            return source
    raise UnreadableError(_NO_SENSOR)


class PowerMeter:
    """Reads the sensors from the beginning of a `with` block to its end."""

    def __init__(
        self,
        source: Source | None = None,
        *,
        idle_s: float = IDLE_S,
        interval_s: float = INTERVAL_S,
        clock: Callable[[], int] = time.perf_counter_ns,
        sleep: Callable[[float], object] = time.sleep,
        root: Path = Path("/"),
    ) -> None:
        """Find the sensors; nothing is read yet.

        Args:
            source: The sensors; by default those of this machine.
            idle_s: Seconds that the machine is left alone before the block begins; none where nothing can be read.
            interval_s: Seconds between two readings.
            clock: Monotonic nanoseconds, the same as of the windows.
            sleep: Waits for as many seconds.
            root: The folder that holds `sys`.
        """
        self._reason: str | None = None
        self._idle_s, self._interval_s = idle_s, interval_s
        self._clock, self._sleep = clock, sleep
        self._readings: list[tuple[float, list[float]]] = []
        self._windows: dict[str, list[Window]] = {}
        self._idle: list[Window] = []
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._read_all, name="power", daemon=True)
        try:
            self._source: Source | None = source or find_source(root)
        except UnreadableError as error:
            self._source, self._reason = None, str(error)

    def __enter__(self) -> PowerMeter:
        if self._source is None:
            return self
        self.read()
        self._thread.start()
        started = self._clock()
        try:
            self._sleep(self._idle_s)
        except BaseException:  # Ctrl-C, before there is a block to leave
            self._stop.set()
            self._thread.join()
            raise
        self.read()
        self._idle = [_seconds(started, self._clock())]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._source is not None:
            self._thread.join()
            self.read()  # so that the last window lies between two readings

    def read(self) -> None:
        """Read the sensors once, as the thread does all the time; a sensor that fails leaves a hole."""
        if self._source is None:
            return
        with self._lock:
            before = self._clock()
            with contextlib.suppress(OSError, ValueError):
                values = self._source.read()
                middle = (before + self._clock()) / 2 / _NS_PER_S
                self._readings.append((middle, [values[name] for name in self._source.rails]))

    def window(self, name: str, started_ns: int, ended_ns: int) -> None:
        """Tell that `name`, and nothing else, ran between two moments of the clock."""
        self._windows.setdefault(name, []).append(_seconds(started_ns, ended_ns))

    def arrays(self, origin_ns: int) -> dict[str, npt.NDArray[np.float64]]:
        """Every reading for `samples.npz`; call it after the block. Empty where no sensor was read.

        `power.start_ns`, when, counted from `origin_ns` on the clock; and by rail `power.RAIL`, watts, or joules so far
        of sensors that count energy, then called `power.RAIL.joules`.
        """
        if self._source is None or not self._readings:
            return {}
        times, values = zip(*self._readings, strict=True)
        unit = ".joules" if self._source.counts else ""
        columns = dict(zip(self._source.rails, np.array(values).T, strict=True))
        rails = {f"power.{name}{unit}": column for name, column in columns.items()}
        return {"power.start_ns": np.round(np.array(times) * _NS_PER_S) - origin_ns, **rails}

    def measure(self, name: str, *, runs: int) -> Power:
        """Power and energy in the windows of `name`, in which it ran so many times; call it after the block."""
        windows = self._windows.get(name, [])
        if self._source is None:
            return Power(reason=self._reason)
        known = Power(source=self._source.name, scope=self._source.scope, total=" + ".join(self._source.parts) or None)
        if not runs or duration(windows) <= 0 or len(self._readings) < 2:
            return replace(known, reason="the sensors gave no two readings while it ran")
        return _measured(known, self._source, self._trace(self._source), windows, self._idle, runs)

    def _trace(self, source: Source) -> Trace:
        """The readings; the last column is the total, 0 if no rails are known to add up to it."""
        times, values = zip(*self._readings, strict=True)
        rails = np.array(values)
        total = rails[:, [source.rails.index(name) for name in source.parts]].sum(axis=1, keepdims=True)
        return Trace(
            seconds=np.array(times),
            values=np.concatenate([rails, total], axis=1),
            counts=source.counts,
            longest_gap_s=_LONGEST_GAP_S,
        )

    def _read_all(self) -> None:
        while not self._stop.wait(self._interval_s):
            self.read()


def _measured(
    known: Power, source: Source, trace: Trace, windows: Sequence[Window], idle: Sequence[Window], runs: int
) -> Power:
    found = replace(known, readings=trace.readings(windows), coverage=trace.coverage(windows))
    doubt = _doubt(found, source, windows)
    if doubt is not None:
        return replace(found, reason=doubt)
    *rails, total_w = map(float, trace.mean_watts(windows))
    found = replace(found, rails_w=dict(zip(source.rails, rails, strict=True)))
    if not source.parts:
        reason = f"it is not known which of the rails {', '.join(source.rails)} add up to the whole"
        return replace(found, reason=reason)
    idle_w, per_run = _idle_watts(trace, idle), duration(windows) * _MJ_PER_J / runs
    return replace(
        found,
        energy_mj=total_w * per_run,
        above_idle_mj=None if idle_w is None else (total_w - idle_w) * per_run,
        mean_w=total_w,
        peak_w=_finite(trace.peak_watts(windows)[-1]),
        idle_w=idle_w,
    )


def _doubt(found: Power, source: Source, windows: Sequence[Window]) -> str | None:
    """Why the readings do not back a number, or None if they do."""
    assert found.coverage is not None
    shortest = min(end - start for start, end in windows)
    if found.readings < LEAST_READINGS:
        return f"{found.readings} readings fell into the timed runs, {LEAST_READINGS} are needed; measure for longer"
    if found.coverage < LEAST_COVERAGE:
        return f"the readings cover {found.coverage:.0%} of the timed runs, {LEAST_COVERAGE:.0%} are needed"
    if source.averages_s > _LONGEST_AVERAGE * shortest:
        return (
            f"the sensor averages over {source.averages_s:.3g} s and a turn lasts {shortest:.3g} s, so that it mixes "
            "one candidate with the next; measure for longer"
        )
    return None


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _idle_watts(trace: Trace, idle: Sequence[Window]) -> float | None:
    """Mean total before the block; None if too few readings back it."""
    if not idle or trace.readings(idle) < LEAST_READINGS or trace.coverage(idle) < LEAST_COVERAGE:
        return None
    return float(trace.mean_watts(idle)[-1])


def _seconds(started_ns: int, ended_ns: int) -> Window:
    return started_ns / _NS_PER_S, ended_ns / _NS_PER_S
