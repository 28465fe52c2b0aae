"""Untimed runs until the latency has settled: clocks have risen, caches are full, lazy parts have been set up."""

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


@dataclass(frozen=True, kw_only=True)
class WarmUp:
    """What a warm-up took.

    Attributes:
        runs, seconds: Of the untimed runs.
        settled: Whether it ended because the medians of its last windows agreed within `AGREEMENT`; False where the
            protocol's time was up before; None after too few runs to tell.
    """

    runs: int
    seconds: float
    settled: bool | None


def warm_up(name: str, call: Callable[[], object], protocol: LatencyProtocol, clock: Clock) -> WarmUp:
    """Run for the protocol's least runs and seconds, and on until the latency has settled or its time is up.

    Raises:
        DeviceError: The clock went backwards.
    """
    taken, look = array("q"), 0
    began = ended = clock()
    settled: bool | None = None
    while True:
        before, started = ended, clock()
        call()
        ended = clock()
        if not before <= started <= ended:
            raise went_backwards(name, max(before - started, started - ended))
        taken.append(ended - started)
        seconds = (ended - began) / _NS_PER_S
        if len(taken) < protocol.warmup_runs or seconds < protocol.warmup_s:
            continue
        if len(taken) >= look:
            settled = _has_settled(taken)
            look = 0 if settled is None else math.ceil(len(taken) * _GROWTH)
        if settled or seconds >= protocol.warmup_most_s:
            return WarmUp(runs=len(taken), seconds=seconds, settled=settled)


def run_untimed(call: Callable[[], object], runs: int, seconds: float, clock: Clock) -> None:
    """At least so many runs and seconds, which nobody looks at."""
    started, done = clock(), 0
    while done < runs or clock() - started < seconds * _NS_PER_S:
        call()
        done += 1


def _has_settled(taken: array[int]) -> bool | None:
    """Whether the medians of the last windows agree; None for windows too small to have a median worth the name."""
    window = len(taken) // (2 * _WINDOWS)
    if window < _LEAST_WINDOW:
        return None
    last = np.array(taken[-_WINDOWS * window :], dtype=np.int64).reshape(_WINDOWS, window)
    medians = np.median(last, axis=1)
    return bool(np.ptp(medians) <= AGREEMENT * np.median(medians))
