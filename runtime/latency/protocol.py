"""How long to measure.

Source: MLPerf LoadGen, early stopping (mlcommons/inference, loadgen/early_stopping.cc), for the least
    number of runs at 99 % confidence.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from edgemim.errors import ConfigError

# Smallest n whose chance of at most one run above the percentile is at most 1 %.
LEAST_RUNS = {90: 64, 99: 662}


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
