"""Ratios with intervals: when measuring ends, and what has met its target."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import measuring_tables
import numpy as np
import pytest
from _parts.ratios import in_rounds, in_turns, median_interval

from edgemim.runtime.compare.interleave import Call
from edgemim.runtime.latency.protocol import LatencyProtocol


def rounds(ratio: float, noise: float, looks: tuple[int, ...] = (8, 16, 32)) -> dict[str, Any]:
    """Rounds of a tool that takes 10 ms, beside one that takes `ratio` times as long, give or take."""
    rng = np.random.default_rng(0)

    def once(number: int) -> tuple[float, float]:
        return 10 * ratio * float(np.exp(rng.normal(0, noise))), 10.0

    return in_rounds(once, 0.03, lambda line: None, looks)


def test_what_is_near_enough_is_found_soon() -> None:
    found = rounds(1.005, 0.002)
    assert (found["met"], found["decided"], found["n"]) == (True, True, 8)
    assert found["low"] < 1.005 < found["high"]
    assert (len(found["rounds"]), found["vendor_ms"]) == (8, 10)


def test_noise_takes_more_rounds_and_a_point_estimate_is_not_enough() -> None:
    found = rounds(1.0, 0.2)
    assert (found["n"], found["met"], found["decided"]) == (32, False, False)
    assert found["high"] - found["low"] > 0.06


def test_what_is_too_far_is_decided_and_not_met() -> None:
    found = rounds(1.1, 0.005)
    assert (found["met"], found["decided"], found["n"]) == (False, True, 8)


def test_two_calls_in_turns_are_told_by_their_interval() -> None:
    @contextmanager
    def opened() -> Iterator[Call]:
        yield lambda: time.sleep(0.0001)

    found = in_turns(opened, opened, LatencyProtocol(runs=64, seconds=0, warmup_runs=1, warmup_s=0, warmup_most_s=0), 9)
    assert found["low"] < found["ratio"] < found["high"]
    assert (found["openings"], found["n"] % 16, found["met"]) == (16, 0, True)  # any ratio is within 9


def test_the_interval_of_a_median_is_the_sign_tests() -> None:
    # Of 30 values the chance that at most 5 lie below the median is 0.00016, at most 6 0.0007: the 6th on either side.
    values = [float(value) for value in np.random.default_rng(0).permutation(30)]
    assert median_interval(values, 0.999) == (5, 24)
    assert median_interval([1.0, 2.0, 3.0], 0.999) == (1, 3)


def test_it_misses_the_median_as_rarely_as_it_says() -> None:
    rng, missed = np.random.default_rng(0), 0
    for _ in range(1000):
        low, high = median_interval(list(rng.exponential(size=20)), 0.9)
        missed += not low <= np.log(2) <= high
    assert 0.03 < missed / 1000 < 0.12  # 0.041 by the binomial distribution: the next narrower one would be 0.115


@pytest.mark.parametrize(
    ("met", "decided", "word"), [(True, True, "met"), (False, True, "missed"), (False, False, "not known")]
)
def test_the_table_has_intervals_and_knows_what_is_not_known(met: bool, decided: bool, word: str) -> None:
    ratio = {"versus": "a bare loop", "ratio": 1.0, "low": 0.99, "high": 1.01, "met": met, "decided": decided}
    cost = {"cost_us": 7.25, "low_us": 6.5, "high_us": 8.0}
    wrapper = {"backend": "openvino", "versus": "infer()", "met": met, "decided": decided} | cost
    shown = measuring_tables.overhead(
        {
            "limits": {"ratio": 0.03, "us": 20.0},
            "medians": {"onnxruntime": ratio},
            "wrapper": [wrapper],
            "runtimes": {"onnxruntime": "1.31"},
            "model": "vit",
            "threads": 1,
            "environment": None,
            "command": "python benchmarks/overhead.py",
            "device": {"cpu": "a CPU"},
            "commit": "a" * 40,
        }
    )
    assert f"| onnxruntime | a bare loop | 1.000 (0.990 to 1.010) | within 3%: {word} |" in shown
    assert f"| openvino | `infer()` | 7.2 (6.5 to 8.0) | under 20 µs: {word} |" in shown
