"""Latency of several sessions, measured side by side.

The sessions take turns in rounds (A B C, A B C, ...), so that a machine that warms up, throttles or gets busy
does the same to all of them. Each turn starts with untimed runs: the caches are the previous session's, and
its worker threads may still be spinning.
"""

from __future__ import annotations

import math
import time
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edgemim.runtime.latency.clock import Clock, went_backwards, without_garbage_collection
from edgemim.runtime.latency.protocol import LatencyProtocol
from edgemim.runtime.latency.summary import Samples
from edgemim.runtime.latency.warmup import Thermometer, WarmUp, run_untimed, warm_up

_NS_PER_S = 1e9


def measure_latency(
    calls: Mapping[str, Callable[[], object]],
    protocol: LatencyProtocol,
    *,
    own: Mapping[str, LatencyProtocol] | None = None,
    device_times: Mapping[str, Callable[[], float | None]] | None = None,
    thermometer: Thermometer | None = None,
    clock: Clock = time.perf_counter_ns,
    progress: Callable[[int, int], None] | None = None,
    turn: Callable[[str, int, int], None] | None = None,
) -> dict[str, Samples]:
    """Warm every call up, then time the calls in turns.

    A call must return only when its result is complete in host memory. Python's garbage collector is off
    while the clock runs.

    Args:
        calls: What to time, by name, in the order of the turns.
        own: By the same names, what is timed by a protocol of its own, in turns between those of the others; it has
            as many rounds.
        device_times: By the same names, what tells the milliseconds that the device computed in the latest call, or
            None; asked after every timed call, while the clock stands.
        thermometer: Of a board, which is warmed up until it gets no warmer.
        clock: Monotonic nanoseconds.
        progress: Called with (turns done, turns in all).
        turn: Called with a name and two moments of the clock between which nothing but its timed calls ran.

    Raises:
        DeviceError: The clock went backwards.
    """
    told, own = device_times or {}, own or {}
    assert all(one.rounds == protocol.rounds for one in own.values())
    timed = []
    for name, call in calls.items():
        plan = own.get(name, protocol)
        timed.append(
            _Timed(name, call, plan, told.get(name), warm_up(name, call, plan, clock, thermometer=thermometer))
        )
    with without_garbage_collection():
        for number in range(protocol.rounds):
            for position, one in enumerate(timed):
                run_untimed(one.call, one.protocol.settle_runs, one.protocol.settle_s, clock)
                began = clock()
                one.take_turn(number, clock)
                if turn is not None:
                    turn(one.name, began, clock())
                if progress is not None:
                    progress(number * len(timed) + position + 1, protocol.rounds * len(timed))
    return {one.name: one.samples() for one in timed}


@dataclass
class _Timed:
    """One call, and what its timed runs gave so far."""

    name: str
    call: Callable[[], object]
    protocol: LatencyProtocol
    device_time: Callable[[], float | None] | None
    warmup: WarmUp
    starts: array[int] = field(default_factory=lambda: array("q"))
    times: array[int] = field(default_factory=lambda: array("q"))
    rounds: array[int] = field(default_factory=lambda: array("i"))
    computed: list[float | None] = field(default_factory=list)
    spent: int = 0

    def take_turn(self, number: int, clock: Clock) -> None:
        """Run once, then until this turn's share of runs and of seconds is there, counted from the first turn."""
        protocol = self.protocol
        share = (number + 1) / protocol.rounds
        runs, budget = math.ceil(protocol.runs * share), protocol.seconds * share * _NS_PER_S
        call, starts, times, device_time = self.call, self.starts, self.times, self.device_time
        done, spent, ended = len(times), self.spent, clock()
        # What is done between two runs costs as much as it does for every session, and no latency: the clock stands.
        while True:
            before = ended
            started = clock()
            call()
            ended = clock()
            if not before <= started <= ended:
                raise went_backwards(self.name, max(before - started, started - ended))
            starts.append(started)
            times.append(ended - started)
            done += 1
            spent += ended - started
            if device_time is not None:
                self.computed.append(device_time())
            if done >= runs and spent >= budget:
                break
        self.spent = spent
        self.rounds.extend([number] * (done - len(self.rounds)))

    def samples(self) -> Samples:
        """What all turns gave."""
        return Samples(
            nanoseconds=np.array(self.times, dtype=np.int64),
            rounds=np.array(self.rounds, dtype=np.int32),
            start_ns=np.array(self.starts, dtype=np.int64),
            warmup_runs=self.warmup.runs,
            warmup_s=self.warmup.seconds,
            settled=self.warmup.settled,
            device_ms=_all_or_none(self.computed),
        )


def _all_or_none(values: list[float | None]) -> npt.NDArray[np.float64] | None:
    told = [value for value in values if value is not None]
    return np.array(told, dtype=np.float64) if told and len(told) == len(values) else None
