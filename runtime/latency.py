"""Latency of several sessions, measured side by side.

The sessions take turns in rounds (A B C, A B C, ...), so that a machine that warms up, throttles or gets busy
does the same to all of them. Each turn starts with untimed runs: the caches are the previous session's, and
its worker threads may still be spinning.

Percentiles are nearest-rank: the p-th percentile is the smallest sample that at least p % of the samples do
not exceed, so it is a latency that did occur. A tail percentile is stated only when enough runs back it.

Source: MLPerf LoadGen, early stopping (mlcommons/inference, loadgen/early_stopping.cc), for the least
number of runs at 99 % confidence.
"""

from __future__ import annotations

import gc
import math
import time
from array import array
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from edgemim.errors import ConfigError

# Smallest n whose chance of at most one run above the percentile is at most 1 %.
LEAST_RUNS = {90: 64, 99: 662}
STABLE_SPREAD = 0.05
_NS_PER_MS = 1e6
_NS_PER_S = 1e9

Clock = Callable[[], int]


@dataclass(frozen=True, kw_only=True)
class LatencyProtocol:
    """How long to measure each session.

    Attributes:
        runs: Least number of timed runs.
        seconds: Least time spent in timed runs, in seconds.
        rounds: Turns that each session gets.
        warmup_runs, warmup_s: Least untimed runs, and seconds of them, before the first round.
        settle_runs, settle_s: The same at the start of every turn.
    """

    runs: int = LEAST_RUNS[99]
    seconds: float = 5.0
    rounds: int = 8
    warmup_runs: int = 50
    warmup_s: float = 0.2
    settle_runs: int = 3
    settle_s: float = 0.02

    def __post_init__(self) -> None:
        if self.runs < 1 or self.rounds < 1 or self.warmup_runs < 1 or self.settle_runs < 0:
            raise ConfigError(f"runs, rounds and warm-up runs must be at least 1; got {asdict(self)}")
        seconds = (self.seconds, self.warmup_s, self.settle_s)
        if not all(math.isfinite(s) and s >= 0 for s in seconds):
            raise ConfigError(f"seconds of measuring and warm-up must be finite and not negative; got {seconds}")


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Every timed run of one session.

    Attributes:
        nanoseconds: What the caller waited, int64 [n].
        rounds: The round of each, int32 [n].
        device_ms: What the device computed, in milliseconds, float64 [n]; None where the session cannot tell.
    """

    nanoseconds: npt.NDArray[np.int64]
    rounds: npt.NDArray[np.int32]
    warmup_runs: int
    device_ms: npt.NDArray[np.float64] | None = None

    def round_medians(self) -> npt.NDArray[np.float64]:
        """Median of each round, in ns."""
        return np.array([percentile(self.nanoseconds[self.rounds == r], 50) for r in np.unique(self.rounds)])


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Samples in numbers, in milliseconds.

    Attributes:
        p90_ms, p99_ms: None when fewer than `LEAST_RUNS` runs were made.
        cv: Standard deviation over mean, of all runs.
        spread: Largest minus smallest median of a round, over the overall median.
        stable: Whether the spread is at most `STABLE_SPREAD`; None with a single round.
        device_p50_ms, device_p90_ms, device_p99_ms, device_cv: Of the time that the device computed, without copies and
            without waiting; None where the session cannot tell, the tails also as above.
    """

    n: int
    warmup_runs: int
    mean_ms: float
    p50_ms: float
    p90_ms: float | None
    p99_ms: float | None
    max_ms: float
    cv: float
    spread: float
    stable: bool | None
    device_p50_ms: float | None = None
    device_p90_ms: float | None = None
    device_p99_ms: float | None = None
    device_cv: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the report."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """Latency of one session over another's: median, least and greatest of the rounds' ratios."""

    median: float
    low: float
    high: float


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


def summarise(samples: Samples) -> Latency:
    """Percentiles, spread and stability of one session's samples."""
    values = samples.nanoseconds
    mean, median = float(values.mean()), percentile(values, 50)
    medians = samples.round_medians()
    spread = float(medians.max() - medians.min()) / median if median else 0.0
    tails = _tails(values / _NS_PER_MS)
    device = samples.device_ms
    device_tails = {} if device is None else _tails(device)
    return Latency(
        n=len(values),
        warmup_runs=samples.warmup_runs,
        mean_ms=mean / _NS_PER_MS,
        p50_ms=median / _NS_PER_MS,
        p90_ms=tails.get(90),
        p99_ms=tails.get(99),
        max_ms=float(values.max()) / _NS_PER_MS,
        cv=_cv(values),
        spread=spread,
        stable=spread <= STABLE_SPREAD if len(medians) > 1 else None,
        device_p50_ms=None if device is None else percentile(device, 50),
        device_p90_ms=device_tails.get(90),
        device_p99_ms=device_tails.get(99),
        device_cv=None if device is None else _cv(device),
    )


def percentile(values: npt.NDArray[Any], p: float) -> float:
    """Nearest-rank percentile, p in (0, 100]: the ceil(p / 100 * n)-th smallest of n values."""
    # The product is rounded first: 0.07 * 100 is a little more than 7 in binary.
    rank = max(1, math.ceil(round(p / 100 * len(values), 9)))
    return float(np.partition(values, rank - 1)[rank - 1])


def latency_ratio(ours: Samples, theirs: Samples) -> Ratio:
    """How many times as long `ours` takes, round by round; both come from one `measure_latency`."""
    ratios = ours.round_medians() / theirs.round_medians()
    return Ratio(median=float(np.median(ratios)), low=float(ratios.min()), high=float(ratios.max()))


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


def _tails(values: npt.NDArray[Any]) -> dict[int, float | None]:
    """The percentiles of `LEAST_RUNS`, each None without enough runs."""
    return {p: percentile(values, p) if len(values) >= least else None for p, least in LEAST_RUNS.items()}


def _cv(values: npt.NDArray[Any]) -> float:
    mean = float(values.mean())
    return float(values.std()) / mean if mean else 0.0


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
