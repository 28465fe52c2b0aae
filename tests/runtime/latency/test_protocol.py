"""`edgemim.runtime.latency.protocol`: what the modes promise, and what a caller can change."""

from __future__ import annotations

import pytest

from edgemim.errors import ConfigError
from edgemim.runtime.latency.protocol import LEAST_RUNS, LatencyProtocol, least_runs, protocol_for


@pytest.mark.parametrize(("mode", "runs", "seconds"), [("quick", 256, 5), ("standard", 1024, 60), ("mlperf", 64, 600)])
def test_what_a_mode_promises(mode: str, runs: int, seconds: float) -> None:
    protocol = protocol_for(mode)
    assert (protocol.mode, protocol.runs, protocol.seconds) == (mode, runs, seconds)


@pytest.mark.parametrize(("mode", "warmup_s"), [("quick", 0.2), ("standard", 5), ("mlperf", 30)])
def test_every_mode_warms_up_and_takes_turns_of_seconds(mode: str, warmup_s: float) -> None:
    protocol = protocol_for(mode)
    assert (protocol.warmup_runs, protocol.warmup_s) == (50, warmup_s)
    assert protocol.warmup_s < protocol.warmup_most_s <= max(0.5 * protocol.seconds, 2)
    assert 0.5 <= protocol.seconds / protocol.rounds <= 10


def test_a_gate_on_a_tail_raises_the_runs_that_it_needs() -> None:
    assert least_runs([]) == least_runs(["size_mb", "p50_ms"]) == 0
    assert least_runs(["p90_ms", "p99_ms", "size_mb"]) == LEAST_RUNS[99]
    assert protocol_for("quick", gates=["p99_ms", "size_mb"]).runs == LEAST_RUNS[99]
    assert protocol_for("quick", gates=["p90_estimate_ms", "p50_ms"]).runs == 256
    assert protocol_for("standard", gates=["p99_ms"]).runs == 1024
    assert protocol_for("mlperf", gates=["p99_ms"]) == protocol_for("mlperf", gates=["p99_ms", "p90_ms"])
    assert protocol_for("quick", gates=["p99_ms"]).mode == "quick"


@pytest.mark.parametrize(
    ("changes", "runs", "seconds"),
    [({"runs": 7}, 7, 60), ({"seconds": 0.5}, 1024, 0.5), ({"runs": 7, "seconds": 1}, 7, 1)],
)
def test_numbers_of_the_caller_replace_the_modes(changes: dict[str, float], runs: int, seconds: float) -> None:
    protocol = protocol_for("standard", gates=["p99_ms"], **changes)  # type: ignore[arg-type]
    assert (protocol.mode, protocol.runs, protocol.seconds) == ("custom", runs, seconds)


@pytest.mark.parametrize(
    ("seconds", "least", "most"), [(0.01, 0.2, 0.2), (3, 3, 3), (20, 5, 20), (60, 5, 30), (600, 5, 30)]
)
def test_who_measures_briefly_warms_up_briefly(seconds: float, least: float, most: float) -> None:
    protocol = protocol_for("standard", seconds=seconds)
    assert (protocol.warmup_s, protocol.warmup_most_s) == (least, most)


def test_an_unknown_mode_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown mode 'standart'; did you mean 'standard'\?"):
        protocol_for("standart")


@pytest.mark.parametrize(
    "wrong",
    [{"runs": 0}, {"rounds": 0}, {"seconds": -1.0}, {"seconds": float("nan")}, {"warmup_most_s": float("inf")}],
)
def test_a_protocol_out_of_range_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"must be|are finite"):
        LatencyProtocol(**wrong)  # type: ignore[arg-type]
