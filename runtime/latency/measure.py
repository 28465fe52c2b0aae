"""Latency of several sessions, measured side by side.

The sessions take turns in rounds (A B C, A B C, ...), so that a machine that warms up, throttles or gets busy
does the same to all of them. Each turn starts with untimed runs: the caches are the previous session's, and
its worker threads may still be spinning.
"""

from __future__ import annotations

import gc
import math
import time
from array import array
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import numpy as np
import numpy.typing as npt

from edgemim.runtime.latency.protocol import LatencyProtocol
from edgemim.runtime.latency.summary import Samples

_NS_PER_S = 1e9
Clock = Callable[[], int]


def measure_latency(
    calls: Mapping[str, Callable[[], object]],
    protocol: LatencyProtocol,
    *,
    device_times: Mapping[str, Callable[[], float | None]] | None = None,
    clock: Clock = time.perf_counter_ns,
    progress: Callable[[int, int], None] | None = None,
    turn: Callable[[str, int, int], None] | None = None,
) -> dict[str, Samples]:
    """Time the calls in turns.

    A call must return only when its result is complete in host memory. Python's garbage collector is off
    while the clock runs.

    Args:
        calls: What to time, by name.
        device_times: By the same names, what tells the milliseconds that the device computed in the latest call, or
            None; asked after every timed call, while the clock stands.
        clock: Monotonic nanoseconds.
        progress: Called with (turns done, turns in all).
        turn: Called with a name and two moments of the clock between which nothing but its timed calls ran.
    """
    times = {name: array("q") for name in calls}
    rounds = {name: array("i") for name in calls}
    computed: dict[str, list[float | None]] = {name: [] for name in calls}
    asked = {name: (device_times or {}).get(name, _untold) for name in calls}
    warmup = {name: _run_untimed(c, protocol.warmup_runs, protocol.warmup_s, clock) for name, c in calls.items()}
    with _without_garbage_collection():
        for number in range(protocol.rounds):
            for position, (name, call) in enumerate(calls.items()):
                _run_untimed(call, protocol.settle_runs, protocol.settle_s, clock)
                started = clock()
                _run_timed(call, times[name], partial(_ask, asked[name], computed[name]), protocol, number, clock)
                if turn is not None:
                    turn(name, started, clock())
                rounds[name].extend([number] * (len(times[name]) - len(rounds[name])))
                if progress is not None:
                    progress(number * len(calls) + position + 1, protocol.rounds * len(calls))
    return {
        name: Samples(
            nanoseconds=np.array(times[name], dtype=np.int64),
            rounds=np.array(rounds[name], dtype=np.int32),
            warmup_runs=warmup[name],
            device_ms=_all_or_none(computed[name]),
        )
        for name in calls
    }


def _run_untimed(call: Callable[[], object], runs: int, seconds: float, clock: Clock) -> int:
    started, done = clock(), 0
    while done < runs or clock() - started < seconds * _NS_PER_S:
        call()
        done += 1
    return done


def _run_timed(
    call: Callable[[], object],
    times: array[int],
    after: Callable[[], object],
    protocol: LatencyProtocol,
    turn: int,
    clock: Clock,
) -> None:
    """Run once, then until this turn's share of runs and of seconds is there, counted from the first turn."""
    share = (turn + 1) / protocol.rounds
    runs, spent = math.ceil(protocol.runs * share), sum(times)
    budget = protocol.seconds * share * _NS_PER_S
    before = len(times)
    while len(times) == before or len(times) < runs or spent < budget:
        started = clock()
        call()
        taken = clock() - started
        times.append(taken)
        spent += taken
        after()


def _ask(tell: Callable[[], float | None], told: list[float | None]) -> None:
    told.append(tell())


def _untold() -> None:
    """Of a session that cannot tell what the device computed."""


def _all_or_none(values: list[float | None]) -> npt.NDArray[np.float64] | None:
    told = [value for value in values if value is not None]
    return np.array(told, dtype=np.float64) if told and len(told) == len(values) else None


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
