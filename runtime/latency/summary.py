"""Samples in numbers.

Percentiles are nearest-rank: the p-th percentile is the smallest sample that at least p % of the samples do
not exceed, so it is a latency that did occur. A tail percentile is stated only when enough runs back it.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgemim.runtime.latency.early_stopping import early_stopping_estimate
from edgemim.runtime.latency.protocol import LEAST_RUNS
from edgemim.runtime.trimmed import trimmed_mean

# Of the middle half of the rounds: of a latency that drifts evenly, half of what it drifts in all.
STABLE_SPREAD = 0.025
STABLE_DEVICE_CV = 0.01
RATIO_LEVEL = 0.99
_NS_PER_MS = 1e6


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Every timed run of one session.

    Attributes:
        nanoseconds: What the caller waited, int64 [n].
        rounds: The round of each, int32 [n].
        warmup_runs, warmup_s: Untimed runs before the first round, and the seconds they took.
        settled: Whether the latency had settled by then (`edgemim.runtime.latency.warmup`); None after too few runs
            to tell.
        start_ns: When each began, on the clock it was timed with, int64 [n]; None where that was not kept.
        device_ms: What the device computed, in milliseconds, float64 [n]; None where the session cannot tell.
    """

    nanoseconds: npt.NDArray[np.int64]
    rounds: npt.NDArray[np.int32]
    warmup_runs: int
    warmup_s: float = 0.0
    settled: bool | None = None
    start_ns: npt.NDArray[np.int64] | None = None
    device_ms: npt.NDArray[np.float64] | None = None

    def round_medians(self) -> npt.NDArray[np.float64]:
        """Median of each round, in ns."""
        return np.array([percentile(self.nanoseconds[self.rounds == r], 50) for r in np.unique(self.rounds)])


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Samples in numbers, in milliseconds.

    Attributes:
        n: Timed runs.
        warmup_runs, warmup_s, settled: As in `Samples`.
        p90_ms, p99_ms: None when fewer than `LEAST_RUNS` runs were made.
        p90_estimate_ms: MLPerf's early-stopping estimate of the 90th percentile: with 99 % confidence the true one is
            not above it, if the runs are independent; None when fewer than `LEAST_RUNS` runs were made.
        cv: Standard deviation over mean, of all runs.
        spread: Interquartile range of the rounds' medians, over the overall median: more rounds do not widen it, as
            they would the range, and a single disturbed one does not count.
        stable: Whether `device_cv` is at most `STABLE_DEVICE_CV` where that is known, else whether the spread is at
            most `STABLE_SPREAD`; None with a single round.
        device_p50_ms, device_p90_ms, device_p99_ms, device_cv: Of the time that the device computed, without copies and
            without waiting; None where the session cannot tell, the tails also as above.
    """

    n: int
    warmup_runs: int
    warmup_s: float
    settled: bool | None
    mean_ms: float
    p50_ms: float
    p90_ms: float | None
    p90_estimate_ms: float | None
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
class ShortSeries:
    """A few runs that are only reported beside the others: their number, median and, from enough runs, p90."""

    n: int
    p50_ms: float
    p90_ms: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the report."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """Latency of one session over another's, by rounds that they took in turns.

    Attributes:
        ratio: Trimmed mean of the rounds' ratios, on a logarithmic scale.
        low, high: Its interval at `RATIO_LEVEL`; None with a single round.
    """

    ratio: float
    low: float | None
    high: float | None


def summarise(samples: Samples) -> Latency:
    """Percentiles, spread and stability of one session's samples."""
    values = samples.nanoseconds
    mean, median = float(values.mean()), percentile(values, 50)
    medians = samples.round_medians()
    lower, upper = np.percentile(medians, [25, 75])
    spread = float(upper - lower) / median if median else 0.0
    tails, estimate = _tails(values / _NS_PER_MS), early_stopping_estimate(values)
    device = samples.device_ms
    device_cv = None if device is None else _cv(device)
    device_tails = {} if device is None else _tails(device)
    return Latency(
        n=len(values),
        warmup_runs=samples.warmup_runs,
        warmup_s=samples.warmup_s,
        settled=samples.settled,
        mean_ms=mean / _NS_PER_MS,
        p50_ms=median / _NS_PER_MS,
        p90_ms=tails.get(90),
        p90_estimate_ms=None if estimate is None else estimate / _NS_PER_MS,
        p99_ms=tails.get(99),
        max_ms=float(values.max()) / _NS_PER_MS,
        cv=_cv(values),
        spread=spread,
        stable=_stable(spread, device_cv) if len(medians) > 1 else None,
        device_p50_ms=None if device is None else percentile(device, 50),
        device_p90_ms=device_tails.get(90),
        device_p99_ms=device_tails.get(99),
        device_cv=device_cv,
    )


def summarise_briefly(nanoseconds: npt.NDArray[np.int64]) -> ShortSeries:
    """What a short series, int64 [n], is reported as."""
    milliseconds = nanoseconds / _NS_PER_MS
    return ShortSeries(n=len(milliseconds), p50_ms=percentile(milliseconds, 50), p90_ms=_tails(milliseconds)[90])


def percentile(values: npt.NDArray[Any], p: float) -> float:
    """Nearest-rank percentile, p in (0, 100]: the ceil(p / 100 * n)-th smallest of n values."""
    # The product is rounded first: 0.07 * 100 is a little more than 7 in binary.
    rank = max(1, math.ceil(round(p / 100 * len(values), 9)))
    return float(np.partition(values, rank - 1)[rank - 1])


def latency_ratio(ours: Samples, theirs: Samples) -> Ratio:
    """How many times as long `ours` takes, round by round; both come from one `measure_latency`."""
    return ratio_of_rounds(ours.round_medians(), theirs.round_medians())


def ratio_of_rounds(ours: npt.ArrayLike, theirs: npt.ArrayLike) -> Ratio:
    """The same from the rounds' medians, [rounds] each and in the same order."""
    logs = np.log(np.asarray(ours, dtype=np.float64)) - np.log(np.asarray(theirs, dtype=np.float64))
    found = trimmed_mean(logs, level=RATIO_LEVEL)
    low, high = (None if end is None else math.exp(end) for end in (found.low, found.high))
    return Ratio(ratio=math.exp(found.mean), low=low, high=high)


def _stable(spread: float, device_cv: float | None) -> bool:
    # What the device computes does not depend on what else the host does.
    return spread <= STABLE_SPREAD if device_cv is None else device_cv <= STABLE_DEVICE_CV


def _tails(values: npt.NDArray[Any]) -> dict[int, float | None]:
    """The percentiles of `LEAST_RUNS`, each None without enough runs."""
    return {p: percentile(values, p) if len(values) >= least else None for p, least in LEAST_RUNS.items()}


def _cv(values: npt.NDArray[Any]) -> float:
    mean = float(values.mean())
    return float(values.std()) / mean if mean else 0.0
