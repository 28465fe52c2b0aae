"""Runs of several calls in short turns, so that whatever befalls the machine befalls all of them alike.

A round gives every call one turn. Its order is drawn at random, and the next round has it mirrored: over two rounds
each call comes as often first as last, and after each other one as often as before it. A turn begins with untimed
runs, since the caches are another call's and its worker threads may still be spinning. Turns are as short as that
allows: what a shared machine does changes within tens of milliseconds, and a ratio within a round cancels the rest.

Everything is opened anew several times. Where the memory of one opening happened to lie can make it slower or faster
than the next by a percent, for as long as it is open, and no number of runs averages that out.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edgemim.runtime.latency.clock import Clock, heap_set_aside, went_backwards, without_garbage_collection
from edgemim.runtime.latency.protocol import LatencyProtocol
from edgemim.runtime.latency.summary import Samples
from edgemim.runtime.latency.warmup import Thermometer, WarmUp, run_untimed, warm_up

_NS_PER_S = 1e9
# The interval needs openings enough to see how much they differ, and longer ones more, to average it out.
_LEAST_OPENINGS, _OPENINGS_PER_ROUND = 16, 2
_SETTLE_RUNS, _SETTLE_S = 1, 0.01
_TURN_S = 0.02
_REOPENED_RUNS, _REOPENED_S = 3, 0.05
# A mode's own time may be trebled. Not where the caller says how long, and the longest is long enough.
_EXTENSIONS = {"quick": 2, "standard": 2}

Call = Callable[[], object]
Open = Callable[[], AbstractContextManager[Call]]


@dataclass(frozen=True, kw_only=True)
class Turns:
    """How often and how long each call is timed.

    Attributes:
        runs: Least timed runs of a call.
        seconds: Least seconds of its turns, with the untimed runs that they begin with.
        openings: How often everything is opened; each opening has its share of the runs and seconds.
        settle_runs, settle_s: Least untimed runs at the start of a turn, and seconds of them.
        turn_s: Least seconds of timed runs in a turn; a single run is enough where it takes longer.
        reopened_runs, reopened_s: Least untimed runs after a later opening, and seconds of them; the first one has
            the whole warm-up.
        extensions: How often as many runs, seconds and openings again are added where the first did not decide.
    """

    runs: int
    seconds: float
    openings: int = _LEAST_OPENINGS
    settle_runs: int = _SETTLE_RUNS
    settle_s: float = _SETTLE_S
    turn_s: float = _TURN_S
    reopened_runs: int = _REOPENED_RUNS
    reopened_s: float = _REOPENED_S
    extensions: int = 0


@dataclass(kw_only=True)
class Recorded:
    """Every timed run of one call: how long it took, when it began, in which round and which opening it was."""

    nanoseconds: array[int] = field(default_factory=lambda: array("q"))
    start_ns: array[int] = field(default_factory=lambda: array("q"))
    rounds: array[int] = field(default_factory=lambda: array("i"))
    openings: array[int] = field(default_factory=lambda: array("i"))
    warmup: WarmUp | None = None
    turns_ns: int = 0

    def samples(self) -> Samples:
        """For the summary, whose rounds are the openings."""
        assert self.warmup is not None
        return Samples(
            nanoseconds=np.array(self.nanoseconds, dtype=np.int64),
            rounds=np.array(self.openings, dtype=np.int32),
            start_ns=np.array(self.start_ns, dtype=np.int64),
            warmup_runs=self.warmup.runs,
            warmup_s=self.warmup.seconds,
            settled=self.warmup.settled,
        )

    def round_medians(self) -> npt.NDArray[np.float64]:
        """Median of each round, in ns."""
        starts = np.flatnonzero(np.diff(self.rounds, prepend=-1))
        parts = np.split(np.array(self.nanoseconds), starts[1:])
        return np.array([np.median(part) for part in parts])

    def opening_of_round(self) -> npt.NDArray[np.int32]:
        """The opening that each round was in."""
        starts = np.flatnonzero(np.diff(self.rounds, prepend=-1))
        return np.array(self.openings, dtype=np.int32)[starts]


def turns_for(protocol: LatencyProtocol) -> Turns:
    """As many runs and seconds as a protocol has, and twice as many openings as it has rounds."""
    openings = max(_LEAST_OPENINGS, _OPENINGS_PER_ROUND * protocol.rounds)
    extensions = _EXTENSIONS.get(protocol.mode, 0)
    return Turns(runs=protocol.runs, seconds=protocol.seconds, openings=openings, extensions=extensions)


def interleave(
    entries: Mapping[str, Open],
    turns: Turns,
    protocol: LatencyProtocol,
    *,
    rng: np.random.Generator,
    decided: Callable[[Mapping[str, Recorded]], bool] | None = None,
    thermometer: Thermometer | None = None,
    clock: Clock = time.perf_counter_ns,
    progress: Callable[[float], None] | None = None,
) -> dict[str, Recorded]:
    """Time the calls in turns until each has enough runs and seconds; all get the same number of rounds.

    A call must return only when its result is complete in host memory. Python's garbage collector is off while the
    clock runs.

    Args:
        entries: What opens each call, by name.
        protocol: Says how the first opening is warmed up.
        rng: Draws the order of the turns.
        decided: Asked when all have what `turns` wants; where it says no, and `turns` allows it, they get it again.
        thermometer: Of a board, which is warmed up until it gets no warmer.
        clock: Monotonic nanoseconds.
        progress: Called after every round with the share that is done, 0 to 1; it falls where more is added.

    Raises:
        DeviceError: The clock went backwards, or a call raised it.
    """
    found, names, number = {name: Recorded() for name in entries}, list(entries), 0
    openings = turns.openings * (1 + turns.extensions)
    with heap_set_aside():
        for opening in range(openings):
            wanted, more = opening // turns.openings + 1, opening > 0 and opening % turns.openings == 0
            if more and (decided is None or decided(found)):
                break
            share = (opening + 1) / turns.openings
            with ExitStack() as stack, without_garbage_collection():
                calls = {names[i]: stack.enter_context(entries[names[i]]()) for i in rng.permutation(len(names))}
                for name, call in calls.items():
                    if opening == 0:
                        found[name].warmup = warm_up(name, call, protocol, clock, thermometer=thermometer)
                    else:
                        run_untimed(call, turns.reopened_runs, turns.reopened_s, clock)
                order = [names[i] for i in rng.permutation(len(names))]
                first = number
                while number == first or (number - first) % 2 or _done(found, turns) < share:
                    order = order[::-1] if (number - first) % 2 else [names[i] for i in rng.permutation(len(names))]
                    for name in order:
                        _take_turn(name, calls[name], found[name], turns, number, opening, clock)
                    number += 1
                    if progress is not None:
                        progress(min(1.0, _done(found, turns) / wanted))
    return found


def _done(found: Mapping[str, Recorded], turns: Turns) -> float:
    """How much of what is wanted is there, of the call that has least; 1 or more: all of it."""
    runs = min(len(one.nanoseconds) / turns.runs for one in found.values())
    if turns.seconds <= 0:
        return runs
    return min(runs, min(one.turns_ns for one in found.values()) / (turns.seconds * _NS_PER_S))


def _take_turn(name: str, call: Call, record: Recorded, turns: Turns, number: int, opening: int, clock: Clock) -> None:
    began = clock()
    run_untimed(call, turns.settle_runs, turns.settle_s, clock)
    before = len(record.nanoseconds)
    spent, ended = 0, clock()
    while len(record.nanoseconds) == before or spent < turns.turn_s * _NS_PER_S:
        previous = ended
        started = clock()
        call()
        ended = clock()
        if not previous <= started <= ended:
            raise went_backwards(name, max(previous - started, started - ended))
        record.nanoseconds.append(ended - started)
        record.start_ns.append(started)
        spent += ended - started
    done = len(record.nanoseconds) - before
    record.rounds.extend([number] * done)
    record.openings.extend([opening] * done)
    record.turns_ns += ended - began
