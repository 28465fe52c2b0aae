"""`edgemim.runtime.latency.warmup`: when it ends, on a clock of our own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from edgemim.errors import DeviceError
from edgemim.runtime.latency.protocol import LatencyProtocol
from edgemim.runtime.latency.warmup import WarmUp, warm_up


def warmed(
    ms: Callable[[int], float], degrees: Callable[[float], float | None] | None = None, **changes: float
) -> WarmUp:
    """A warm-up of a call whose n-th run, from 0, takes `ms(n)`, on a board of `degrees(seconds)`."""
    now, runs = 0, 0

    def call() -> None:
        nonlocal now, runs
        now += round(ms(runs) * 1e6)
        runs += 1

    protocol = LatencyProtocol(**{"warmup_runs": 50, "warmup_s": 0.2, "warmup_most_s": 10.0, **changes})  # type: ignore[arg-type]
    thermometer = None if degrees is None else lambda: degrees(now / 1e9)
    done = warm_up("a", call, protocol, lambda: now, thermometer=thermometer)
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


def test_a_board_is_waited_for_until_it_gets_no_warmer() -> None:
    # Towards 60 degrees with a time constant of 10 s: of the 30 that are missing at first the last 10 s brought
    # 30 (e - 1) exp(-s / 10), which is less than 0.5 after 46.3 s. That is seen at most a second later.
    done = warmed(lambda n: 10, lambda s: 60 - 30 * 0.5 ** (s / 6.931), warmup_most_s=60.0)
    assert done.settled is True
    assert 46 < done.seconds < 47.5


def test_a_board_that_goes_on_getting_warmer_has_not_settled_when_the_time_is_up() -> None:
    done = warmed(lambda n: 10, lambda s: 30 + 0.1 * s, warmup_most_s=30.0)
    assert done.settled is False
    assert 30.0 <= done.seconds < 30.1


@pytest.mark.parametrize("degrees", [lambda s: 45.0, lambda s: 45 + 0.2 * (int(s) % 2)])
def test_an_even_temperature_takes_ten_seconds_to_see(degrees: Callable[[float], float]) -> None:
    done = warmed(lambda n: 10, degrees, warmup_most_s=30.0)
    assert done.settled is True
    assert 10 <= done.seconds < 11.5


def test_sensors_that_sleep_are_not_waited_for() -> None:
    assert warmed(lambda n: 10, lambda s: None, warmup_most_s=30.0) == WarmUp(runs=50, seconds=0.5, settled=True)


def test_who_has_no_time_for_it_does_not_look_at_the_temperature() -> None:
    done = warmed(lambda n: 10, lambda s: 30 + s, warmup_most_s=2.0)
    assert done == WarmUp(runs=50, seconds=0.5, settled=True)


def test_a_clock_that_goes_backwards_ends_it() -> None:
    with pytest.raises(DeviceError, match="the clock went backwards by 3 ms while a was timed"):
        warmed(lambda n: -3 if n == 7 else 10)
