"""`edgemim.runtime.latency.warmup`: when it ends, on a clock of our own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from edgemim.errors import DeviceError
from edgemim.runtime.latency.protocol import LatencyProtocol
from edgemim.runtime.latency.warmup import WarmUp, warm_up


def warmed(ms: Callable[[int], float], **changes: float) -> WarmUp:
    """A warm-up of a call whose n-th run, from 0, takes `ms(n)`."""
    now, runs = 0, 0

    def call() -> None:
        nonlocal now, runs
        now += round(ms(runs) * 1e6)
        runs += 1

    protocol = LatencyProtocol(**{"warmup_runs": 50, "warmup_s": 0.2, "warmup_most_s": 10.0, **changes})  # type: ignore[arg-type]
    done = warm_up("a", call, protocol, lambda: now)
    assert done.runs == runs
    assert done.seconds == pytest.approx(now / 1e9)
    return done


def test_a_steady_call_warms_up_for_the_least_runs_and_seconds() -> None:
    assert warmed(lambda n: 10) == WarmUp(runs=50, seconds=0.5, settled=True)
    assert warmed(lambda n: 1) == WarmUp(runs=200, seconds=0.2, settled=True)


def test_a_call_that_gets_faster_is_waited_for() -> None:
    # From 20 ms to 10 ms over the first 300 runs.
    done = warmed(lambda n: 10 + 10 * max(0.0, 1 - n / 300))
    assert done.settled is True
    # All but the beginning of the second half must lie beyond almost all of the slope.
    assert 400 < done.runs < 750


def test_a_call_that_never_settles_ends_when_the_time_is_up() -> None:
    done = warmed(lambda n: 10 * 1.01**n, warmup_most_s=3.0)
    assert done.settled is False
    assert 3.0 <= done.seconds < 3.1


def test_noise_is_averaged_out_by_longer_windows() -> None:
    noise = np.random.default_rng(0).normal(10, 1, 10_000)  # 10 %, where the medians must agree within 1 %
    done = warmed(lambda n: float(noise[n]), warmup_most_s=60.0)
    assert done.settled is True
    assert done.seconds > 0.5


def test_a_slow_call_is_not_judged_by_a_handful_of_runs() -> None:
    assert warmed(lambda n: 1000, warmup_runs=3, warmup_most_s=5.0) == WarmUp(runs=5, seconds=5.0, settled=None)
    assert warmed(lambda n: 1000, warmup_runs=3, warmup_most_s=60.0) == WarmUp(runs=30, seconds=30.0, settled=True)


def test_a_clock_that_goes_backwards_ends_it() -> None:
    with pytest.raises(DeviceError, match="the clock went backwards by 3 ms while a was timed"):
        warmed(lambda n: -3 if n == 7 else 10)
