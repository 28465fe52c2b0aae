"""`edgemim.runtime.power.meter`: from readings to the energy of a run, in a made-up time; the thread in real time."""

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
STEP_S = 0.05


class FakeTime:
    """A clock that moves when it is told to, and reads the meter every `STEP_S` as its thread would."""

    def __init__(self) -> None:
        self.now, self.meter = 0, None

    def clock(self) -> int:
        self.now += 1000
        return self.now

    def sleep(self, seconds: float) -> None:
        for _ in range(round(seconds / STEP_S)):
            self.now += int(STEP_S * 1e9)
            assert self.meter is not None
            self.meter.read()


class FakeSource(Source):
    """A board that takes `watts`, of which a quarter is one rail's."""

    name: ClassVar[str] = "fake"
    counts: ClassVar[bool] = False
    rails: tuple[str, ...] = (WHOLE, PART)
    parts: tuple[str, ...] = (WHOLE,)
    scope = "all of it"
    averages_s = 0.0

    def __init__(self, time: FakeTime) -> None:
        self.time, self.watts, self.fails = time, 4.0, False

    def take(self, watts: float) -> None:
        self.watts = watts

    def read(self) -> dict[str, float]:
        if self.fails:
            raise OSError("Remote I/O error")
        return {WHOLE: self.watts, PART: self.watts / 4}


class FakeCounter(FakeSource):
    """The same board with a counter in the place of a meter."""

    counts: ClassVar[bool] = True

    def __init__(self, time: FakeTime) -> None:
        super().__init__(time)
        self.joules, self.since = 0.0, time.now

    def take(self, watts: float) -> None:
        self.read()
        self.watts = watts

    def read(self) -> dict[str, float]:
        self.joules += self.watts * (self.time.now - self.since) / 1e9
        self.since = self.time.now
        return {WHOLE: self.joules, PART: self.joules / 4}


class Bench:
    """A meter on a fake board in a fake time."""

    def __init__(self, kind: type[FakeSource] = FakeSource, *, idle_s: float = 0.0, root: Path | None = None) -> None:
        self.time = FakeTime()
        self.board = kind(self.time)
        # Its own thread would read once an hour of real time.
        self.meter = PowerMeter(
            None if root else self.board,
            idle_s=idle_s,
            interval_s=3600,
            clock=self.time.clock,
            sleep=self.time.sleep,
            root=root or Path("/"),
        )
        self.time.meter = self.meter

    def run(self, name: str, seconds: float) -> None:
        started = self.time.clock()
        self.time.sleep(seconds)
        self.meter.window(name, started, self.time.clock())


@pytest.mark.parametrize("kind", [FakeSource, FakeCounter])
def test_the_energy_of_a_run_is_power_times_time_over_runs(kind: type[FakeSource]) -> None:
    bench = Bench(kind, idle_s=10.0)
    with bench.meter as meter:
        bench.board.take(10.0)
        bench.time.sleep(STEP_S)
        bench.run("a", 2.0)
    power = meter.measure("a", runs=100)
    # 10 W for 2 s over 100 runs: 200 mJ; the idle machine takes 4 W, 80 mJ, of it.
    assert power.reason is None
    assert power.energy_mj == pytest.approx(200, rel=1e-3)
    assert power.above_idle_mj == pytest.approx(120, rel=1e-3)
    assert (power.mean_w, power.peak_w, power.idle_w) == pytest.approx((10, 10, 4), rel=1e-3)
    assert power.rails_w == pytest.approx({WHOLE: 10, PART: 2.5}, rel=1e-3)
    assert power.coverage == pytest.approx(1, rel=1e-3)
    assert (power.source, power.total, power.scope, power.readings) == ("fake", WHOLE, "all of it", 40)
    assert json.loads(json.dumps(power.to_dict(), allow_nan=False))["energy_mj"] == power.energy_mj


def test_sessions_that_take_turns_are_told_apart() -> None:
    bench = Bench()
    with bench.meter as meter:
        for _ in range(3):
            for name, watts in (("small", 5.0), ("large", 20.0)):
                bench.board.take(watts)
                bench.time.sleep(STEP_S)
                bench.run(name, 0.5)
    small, large = meter.measure("small", runs=10), meter.measure("large", runs=10)
    assert small.mean_w == pytest.approx(5, rel=1e-3)
    assert large.mean_w == pytest.approx(20, rel=1e-3)
    assert (small.idle_w, small.above_idle_mj) == (None, None)


def test_a_peak_is_the_largest_of_the_timed_readings_alone() -> None:
    bench = Bench()
    with bench.meter as meter:
        bench.board.take(10.0)
        bench.time.sleep(STEP_S)
        bench.run("a", 2.0)
        bench.board.take(99.0)
        bench.time.sleep(2 * STEP_S)
    assert meter.measure("a", runs=1).peak_w == 10


def test_too_few_readings_are_no_number() -> None:
    bench = Bench()
    with bench.meter as meter:
        bench.run("a", 9 * STEP_S)
    power = meter.measure("a", runs=3)
    assert (power.energy_mj, power.mean_w) == (None, None)
    assert power.reason == "9 readings fell into the timed runs, 10 are needed; measure for longer"


def test_a_sensor_that_falls_silent_is_no_number() -> None:
    bench = Bench()
    with bench.meter as meter:
        started = bench.time.clock()
        bench.time.sleep(3.0)
        bench.board.fails = True
        bench.time.sleep(1.0)
        meter.window("a", started, bench.time.clock())
    power = meter.measure("a", runs=3)
    assert power.energy_mj is None
    assert power.coverage == pytest.approx(0.75, rel=1e-2)
    assert power.reason == "the readings cover 75% of the timed runs, 95% are needed"


def test_a_sensor_that_never_answers_is_no_number() -> None:
    bench = Bench()
    bench.board.fails = True
    with bench.meter as meter:
        bench.run("a", 2.0)
    assert meter.measure("a", runs=3).reason == "the sensors gave no two readings while it ran"


def test_a_session_that_was_never_timed_is_no_number() -> None:
    bench = Bench()
    with bench.meter as meter:
        bench.time.sleep(1.0)
    assert meter.measure("a", runs=0).energy_mj is None


def test_rails_that_do_not_add_up_are_reported_without_a_total() -> None:
    bench = Bench()
    bench.board.parts = ()
    with bench.meter as meter:
        bench.run("a", 2.0)
    power = meter.measure("a", runs=3)
    assert (power.energy_mj, power.mean_w, power.total) == (None, None, None)
    assert power.rails_w == pytest.approx({WHOLE: 4, PART: 1})
    assert power.reason == "it is not known which of the rails WHOLE, PART add up to the whole"


def test_a_sensor_that_averages_for_longer_than_a_turn_is_no_number() -> None:
    bench = Bench()
    bench.board.averages_s = 0.5
    with bench.meter as meter:
        bench.run("a", 2.0)
    assert "averages over 0.5 s and a turn lasts 2 s" in (meter.measure("a", runs=3).reason or "")


def test_without_a_sensor_nobody_waits_and_the_reason_is_told(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError):
        find_source(tmp_path)
    bench = Bench(root=tmp_path, idle_s=30.0)
    with bench.meter as meter:
        assert bench.time.now < 1e9
        bench.run("a", 1.0)
    power = meter.measure("a", runs=10)
    assert (power.reason or "").startswith("no power sensor that edgemim can read")
    assert {value for key, value in power.to_dict().items() if key not in ("reason", "readings")} == {None}


def test_a_jetsons_rails_are_found_before_anything_else(jetson: Callable[..., Path]) -> None:
    bench = Bench(root=jetson("orin-nano"), idle_s=1.0)
    with bench.meter as meter:
        bench.run("a", 2.0)
    power = meter.measure("a", runs=1)
    assert (power.source, power.total) == ("ina3221", "VDD_IN")
    assert power.mean_w == pytest.approx(5.0)
    assert power.above_idle_mj == pytest.approx(0, abs=1e-6)


def test_an_x86_machines_counters_are_found(x86: Path) -> None:
    assert find_source(x86).name == "rapl"


def test_the_thread_reads_in_real_time_and_ends_with_the_block() -> None:
    board = FakeSource(FakeTime())
    with PowerMeter(board, idle_s=0.0, interval_s=0.01) as meter:
        started = time.perf_counter_ns()
        time.sleep(0.5)
        meter.window("a", started, time.perf_counter_ns())
    assert not [thread for thread in threading.enumerate() if thread.name == "power"]
    # 50 on an idle machine: how many on this one is not ours to say, and 4 W whatever it is.
    assert meter.measure("a", runs=1).readings > 1
    assert meter.measure("a", runs=1).mean_w in (None, pytest.approx(4.0))


def test_an_interruption_while_the_machine_rests_leaves_no_thread() -> None:
    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), PowerMeter(FakeSource(FakeTime()), interval_s=0.01, sleep=interrupted):
        pass
    assert not [thread for thread in threading.enumerate() if thread.name == "power"]
