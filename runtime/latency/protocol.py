"""How long to measure.

Source: MLPerf LoadGen, early stopping (mlcommons/inference, loadgen/early_stopping.cc), for the least
    number of runs at 99 % confidence.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

from edgemim.errors import ConfigError
from edgemim.registry import did_you_mean

# Smallest n whose chance of at most one run above the percentile is at most 1 %.
LEAST_RUNS = {90: 64, 99: 662}
CUSTOM = "custom"
# What these gates are held against needs this many runs.
_LEAST_BY_GATE = {"p90_ms": LEAST_RUNS[90], "p90_estimate_ms": LEAST_RUNS[90], "p99_ms": LEAST_RUNS[99]}


@dataclass(frozen=True, kw_only=True)
class LatencyProtocol:
    """How long to measure each session.

    Attributes:
        mode: One of `MODES`, or "custom".
        runs: Least number of timed runs.
        seconds: Least time spent in timed runs, in seconds.
        rounds: Turns that each session gets.
        warmup_runs, warmup_s: Least untimed runs, and seconds of them, before the first round.
        warmup_most_s: Seconds after which a warm-up that has not settled is given up; the least runs are kept.
        settle_runs, settle_s: Least untimed runs, and seconds of them, at the start of every turn.
    """

    mode: str = CUSTOM
    runs: int = LEAST_RUNS[99]
    seconds: float = 5.0
    rounds: int = 8
    warmup_runs: int = 50
    warmup_s: float = 0.2
    warmup_most_s: float = 2.0
    settle_runs: int = 3
    settle_s: float = 0.02

    def __post_init__(self) -> None:
        if self.runs < 1 or self.rounds < 1 or self.warmup_runs < 1 or self.settle_runs < 0:
            raise ConfigError(f"runs, rounds and warm-up runs must be at least 1; got {asdict(self)}")
        seconds = (self.seconds, self.warmup_s, self.warmup_most_s, self.settle_s)
        if not all(math.isfinite(s) and s >= 0 for s in seconds):
            raise ConfigError(f"seconds of measuring and warm-up must be finite and not negative; got {seconds}")


# More rounds where it takes longer: a turn stays at a few seconds, so that what drifts, drifts for all alike. And a
# warm-up that heats the machine through, which a quick look does not wait for.
_MODES = {
    protocol.mode: protocol
    for protocol in (
        LatencyProtocol(mode="quick", runs=256, seconds=5.0),
        LatencyProtocol(mode="standard", runs=1024, seconds=60.0, rounds=24, warmup_s=5.0, warmup_most_s=30.0),
        LatencyProtocol(
            mode="mlperf", runs=LEAST_RUNS[90], seconds=600.0, rounds=60, warmup_s=30.0, warmup_most_s=60.0
        ),
    )
}
MODES = tuple(_MODES)


def least_runs(gates: Iterable[str]) -> int:
    """How many runs the percentiles of these gates need; 0 where none needs any."""
    return max((_LEAST_BY_GATE.get(name, 0) for name in gates), default=0)


def protocol_for(
    mode: str, *, runs: int | None = None, seconds: float | None = None, gates: Iterable[str] = ()
) -> LatencyProtocol:
    """The protocol of a mode.

    Args:
        mode: `quick` (at least 256 runs and 5 s), `standard` (1024 and 60 s) or `mlperf` (600 s, as for MLPerf's
            single stream; runs enough for its estimate).
        runs, seconds: In place of the mode's, which then is called "custom"; a warm-up takes no longer than `seconds`.
        gates: Names of gates; the mode's number of runs is raised to what the percentile of a gate needs. A number
            that the caller gives is kept.

    Raises:
        ConfigError: An unknown mode, or a number out of its range.
    """
    if mode not in _MODES:
        raise ConfigError(f"unknown mode {mode!r}{did_you_mean(mode, MODES)}")
    found = _MODES[mode]
    found = replace(found, runs=max(found.runs, least_runs(gates)))
    if runs is None and seconds is None:
        return found
    seconds = found.seconds if seconds is None else seconds
    # Who measures briefly does not want to warm up for longer than that.
    warmup_s = min(found.warmup_s, max(LatencyProtocol.warmup_s, seconds))
    return replace(
        found,
        mode=CUSTOM,
        runs=found.runs if runs is None else runs,
        seconds=seconds,
        warmup_s=warmup_s,
        warmup_most_s=min(found.warmup_most_s, max(warmup_s, seconds)),
    )
