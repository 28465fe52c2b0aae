"""Untimed runs until the latency has settled: clocks have risen, caches are full, lazy parts have been set up.

On a board also until it has stopped getting warmer: a heat sink the size of a coin takes minutes to do so, and then the
clocks may fall.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edgemim.runtime.latency.clock import Clock, went_backwards
from edgemim.runtime.latency.protocol import LatencyProtocol

AGREEMENT = 0.01
_NS_PER_S = 1e9
# The first half of the runs is left to settle; three windows of the second are compared with each other. They grow
# with the runs, so that noise averages out.
_WINDOWS = 3
_LEAST_WINDOW = 5
# Looking again only after so many more runs: a look that comes out right by chance must stay rare.
_GROWTH = 1.25
# A board whose hottest zone changes by less than so many degrees in so many seconds is as warm as it gets.
EVEN_C, _EVEN_S = 0.5, 10.0
_READ_EVERY_S = 1.0

# Degrees Celsius of the hottest zone; None where no sensor can be read now.
Thermometer = Callable[[], "float | None"]


@dataclass(frozen=True, kw_only=True)
class WarmUp:
    """What a warm-up took.

    Attributes:
        runs, seconds: Of the untimed runs.
        settled: Whether it ended because the medians of its last windows agreed within `AGREEMENT`, and a board no
            longer got warmer; False where the protocol's time was up before; None after too few runs to tell.
    """

    runs: int
    seconds: float
    settled: bool | None


def warm_up(
    name: str,
    call: Callable[[], object],
    protocol: LatencyProtocol,
    clock: Clock,
    *,
    thermometer: Thermometer | None = None,
) -> WarmUp:
    """Run for the protocol's least runs and seconds, and on until the latency has settled or its time is up.

    Args:
        name: For the error.
        call: One run.
        protocol: Its warm-up.
        clock: Monotonic nanoseconds.
        thermometer: Of a board, which has to stop getting warmer besides, where there is time for that.

    Raises:
        DeviceError: The clock went backwards.
    """
    taken, look = array("q"), 0
    began = ended = clock()
    settled: bool | None = None
    heat = None if thermometer is None or protocol.warmup_most_s < _EVEN_S else _Heat(thermometer)
    while True:
        before, started = ended, clock()
        call()
        ended = clock()
        if not before <= started <= ended:
            raise went_backwards(name, max(before - started, started - ended))
        taken.append(ended - started)
        seconds = (ended - began) / _NS_PER_S
        if heat is not None:
            heat.read(seconds)
        if len(taken) < protocol.warmup_runs or seconds < protocol.warmup_s:
            continue
        if len(taken) >= look:
            settled = _has_settled(taken)
            look = 0 if settled is None else math.ceil(len(taken) * _GROWTH)
        warming = heat is not None and not heat.is_even
        if (settled and not warming) or seconds >= protocol.warmup_most_s:
            return WarmUp(runs=len(taken), seconds=seconds, settled=False if warming else settled)


def run_untimed(call: Callable[[], object], runs: int, seconds: float, clock: Clock) -> None:
    """At least so many runs and seconds, which nobody looks at."""
    started, done = clock(), 0
    while done < runs or clock() - started < seconds * _NS_PER_S:
        call()
        done += 1


class _Heat:
    """Readings of a thermometer, one a second at most."""

    def __init__(self, thermometer: Thermometer) -> None:
        self._thermometer, self._readings = thermometer, list[tuple[float, float]]()
        self._next_s = 0.0

    def read(self, seconds: float) -> None:
        """Read, if it is time again, `seconds` after the warm-up began."""
        if seconds < self._next_s:
            return
        self._next_s = seconds + _READ_EVERY_S
        degrees = self._thermometer()
        if degrees is not None:
            self._readings.append((seconds, degrees))

    @property
    def is_even(self) -> bool:
        """Whether the last reading is much like all of the last seconds; True where none could be made at all."""
        if not self._readings:
            return True
        last_s, last = self._readings[-1]
        recent = [degrees for seconds, degrees in self._readings if seconds >= last_s - _EVEN_S]
        covered = last_s - self._readings[0][0] >= _EVEN_S
        return covered and max(abs(last - degrees) for degrees in recent) < EVEN_C


def _has_settled(taken: array[int]) -> bool | None:
    """Whether the medians of the last windows agree; None for windows too small to have a median worth the name."""
    window = len(taken) // (2 * _WINDOWS)
    if window < _LEAST_WINDOW:
        return None
    last = np.array(taken[-_WINDOWS * window :], dtype=np.int64).reshape(_WINDOWS, window)
    medians = np.median(last, axis=1)
    return bool(np.ptp(medians) <= AGREEMENT * np.median(medians))
