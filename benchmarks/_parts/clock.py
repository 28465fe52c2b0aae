"""Steps timed in turn: A, B, A, B, ..., so that what slows the machine down slows all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

Step = Callable[[], None]


def time_in_turn(steps: Mapping[str, Step], *, rounds: int, steps_per_round: int = 1) -> dict[str, list[float]]:
    """Seconds of one step of each, by round (the median within a round), after one untimed round.

    Args:
        steps: Name to a function that does one step.
        rounds: How often each has its turn.
        steps_per_round: Steps in one turn.
    """
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for round_ in range(rounds + 1):
        for name, step in steps.items():
            taken = [_seconds(step) for _ in range(steps_per_round)]
            if round_:
                seconds[name].append(statistics.median(taken))
    return seconds


def compared(seconds: Mapping[str, list[float]], base: str) -> dict[str, dict[str, Any]]:
    """Median seconds of each, and its ratio to `base`: median, least and most of the rounds' own ratios."""
    rows = {}
    for name, values in seconds.items():
        ratios = [value / other for value, other in zip(values, seconds[base], strict=True)]
        rows[name] = {
            "median_s": round(statistics.median(values), 6),
            "ratio": round(statistics.median(ratios), 4),
            "ratio_range": [round(min(ratios), 4), round(max(ratios), 4)],
            "seconds": [round(v, 6) for v in values],
        }
    return rows


def _seconds(step: Step) -> float:
    _wait()
    start = time.perf_counter()
    step()
    _wait()
    return time.perf_counter() - start


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
