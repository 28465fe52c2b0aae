"""`edgemim.runtime.power.meter`: from a thread's readings to the energy of a run."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest

from edgemim.runtime.power._base import Source, UnreadableError
from edgemim.runtime.power.meter import PowerMeter, find_source

WHOLE, PART = "WHOLE", "PART"


class FakeSource(Source):
    """A board that takes `now` watts, of which a quarter is one rail's."""

    name: ClassVar[str] = "fake"
    counts: ClassVar[bool] = False
    rails: tuple[str, ...] = (WHOLE, PART)
    parts: tuple[str, ...] = (WHOLE,)
    scope = "all of it"
    averages_s = 0.0

    def __init__(self) -> None:
        self.now, self.fails = 4.0, False

    def take(self, watts: float) -> None:
        self.now = watts

    def read(self) -> dict[str, float]:
        if self.fails:
            raise OSError("Remote I/O error")
        return {WHOLE: self.now, PART: self.now / 4}


class FakeCounter(FakeSource):
    """The same board with a counter in the place of a meter."""

    counts: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()
        self.lock, self.sum, self.since = threading.Lock(), 0.0, time.perf_counter()

    def take(self, watts: float) -> None:
        self.read()
        self.now = watts

    def read(self) -> dict[str, float]:
        with self.lock:
            now = time.perf_counter()
            self.sum, self.since = self.sum + self.now * (now - self.since), now
            return {WHOLE: self.sum, PART: self.sum / 4}


def spend(meter: PowerMeter, name: str, seconds: float) -> None:
    started = time.perf_counter_ns()
    time.sleep(seconds)
    meter.window(name, started, time.perf_counter_ns())


def quick(source: Source, **options: float) -> PowerMeter:
    # On a busy machine a thread wakes late: a hole is what is 40 times as long as the interval.
    return PowerMeter(source, interval_s=0.02, **{"idle_s": 0.4, **options})


@pytest.mark.parametrize("kind", [FakeSource, FakeCounter])
def test_the_energy_of_a_run_is_power_times_time_over_runs(kind: type[FakeSource]) -> None:
    source = kind()
    with quick(source) as meter:
        source.take(10.0)
        spend(meter, "a", 0.4)
    power = meter.measure("a", runs=100)
    # 10 W for a little more than 0.4 s over 100 runs: 40 mJ; the idle machine takes 4 W of it.
    assert power.reason is None
    assert power.energy_mj == pytest.approx(40, rel=0.2)
    assert power.mean_w == pytest.approx(10, rel=0.1)
    assert power.idle_w == pytest.approx(4, rel=0.1)
    assert power.above_idle_mj == pytest.approx((power.mean_w - power.idle_w) / power.mean_w * power.energy_mj)
    assert power.rails_w == pytest.approx({WHOLE: 10, PART: 2.5}, rel=0.1)
    assert power.coverage == pytest.approx(1)
    assert (power.source, power.total, power.scope) == ("fake", WHOLE, "all of it")
    assert json.loads(json.dumps(power.to_dict(), allow_nan=False))["energy_mj"] == power.energy_mj


def test_sessions_that_take_turns_are_told_apart() -> None:
    source = FakeSource()
    with quick(source, idle_s=0.0) as meter:
        for _ in range(3):
            for name, watts in (("small", 5.0), ("large", 20.0)):
                source.take(watts)
                time.sleep(0.1)
                spend(meter, name, 0.15)
    small, large = meter.measure("small", runs=10), meter.measure("large", runs=10)
    # Without the windows both would be 12.5 W; a reader that wakes late mixes in a little of the neighbour.
    assert small.mean_w == pytest.approx(5, abs=2)
    assert large.mean_w == pytest.approx(20, abs=2)
    assert (small.idle_w, small.above_idle_mj) == (None, None)


def test_a_peak_is_the_largest_of_the_timed_readings_alone() -> None:
    source = FakeSource()
    with quick(source) as meter:
        source.take(10.0)
        time.sleep(0.05)
        spend(meter, "a", 0.4)
        source.take(99.0)
        time.sleep(0.1)
    assert meter.measure("a", runs=1).peak_w == 10


def test_too_few_readings_are_no_number() -> None:
    with PowerMeter(FakeSource(), interval_s=0.5, idle_s=0.0) as meter:
        spend(meter, "a", 0.05)
    power = meter.measure("a", runs=3)
    assert (power.energy_mj, power.mean_w) == (None, None)
    assert "10 are needed; measure for longer" in (power.reason or "")


def test_a_sensor_that_falls_silent_is_no_number() -> None:
    source = FakeSource()
    with quick(source, idle_s=0.0) as meter:
        started = time.perf_counter_ns()
        time.sleep(0.4)
        source.fails = True
        time.sleep(0.4)
        meter.window("a", started, time.perf_counter_ns())
    power = meter.measure("a", runs=3)
    assert power.energy_mj is None
    assert power.coverage is not None
    assert power.coverage < 0.95
    assert "95% are needed" in (power.reason or "")


def test_a_sensor_that_never_answers_is_no_number() -> None:
    source = FakeSource()
    source.fails = True
    with quick(source, idle_s=0.0) as meter:
        spend(meter, "a", 0.05)
    assert meter.measure("a", runs=3).reason == "the sensors gave no two readings while it ran"


def test_a_session_that_was_never_timed_is_no_number() -> None:
    with quick(FakeSource(), idle_s=0.05) as meter:
        pass
    assert meter.measure("a", runs=0).energy_mj is None


def test_rails_that_do_not_add_up_are_reported_without_a_total() -> None:
    source = FakeSource()
    source.parts = ()
    with quick(source, idle_s=0.0) as meter:
        spend(meter, "a", 0.4)
    power = meter.measure("a", runs=3)
    assert (power.energy_mj, power.mean_w, power.total) == (None, None, None)
    assert power.rails_w == pytest.approx({WHOLE: 4, PART: 1})
    assert power.reason == "it is not known which of the rails WHOLE, PART add up to the whole"


def test_a_sensor_that_averages_for_longer_than_a_turn_is_no_number() -> None:
    source = FakeSource()
    source.averages_s = 0.5
    with quick(source, idle_s=0.0) as meter:
        spend(meter, "a", 0.4)
    assert "averages over 0.5 s" in (meter.measure("a", runs=3).reason or "")


def test_without_a_sensor_nobody_waits_and_the_reason_is_told(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError):
        find_source(tmp_path)
    started = time.perf_counter()
    with PowerMeter(root=tmp_path, idle_s=30.0) as meter:
        spend(meter, "a", 0.01)
    assert time.perf_counter() - started < 5
    power = meter.measure("a", runs=10)
    assert (power.reason or "").startswith("no power sensor that edgemim can read")
    assert {value for key, value in power.to_dict().items() if key not in ("reason", "readings")} == {None}


def test_a_jetsons_rails_are_found_before_anything_else(jetson: Callable[..., Path]) -> None:
    with PowerMeter(root=jetson("orin-nano"), idle_s=0.4, interval_s=0.02) as meter:
        spend(meter, "a", 0.4)
    power = meter.measure("a", runs=1)
    assert (power.source, power.total) == ("ina3221", "VDD_IN")
    assert power.mean_w == pytest.approx(5.0)
    assert power.above_idle_mj == pytest.approx(0, abs=1e-6)


def test_an_x86_machines_counters_are_found(x86: Path) -> None:
    assert find_source(x86).name == "rapl"
