"""`edgemim.runtime.environment`: hand-made folders and a clock of our own in, numbers and sentences out."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edgemim.runtime.environment.summary import Environment
from edgemim.runtime.environment.watch import EnvironmentWatch

GPU = "sys/class/devfreq/17000000.gpu"
ZONE = "sys/class/thermal/thermal_zone{}"
TICK = os.sysconf("SC_CLK_TCK")
S = 1_000_000_000


class Machine:
    """A machine of two CPUs, of four, that this process may use; time passes when told to."""

    def __init__(self, root: Path) -> None:
        self.root, self.now, self.own = root, 100 * S, 5.0
        self.busy, self.stolen = [1000.0, 2000.0, 3000.0, 4000.0], 0.0
        self.cpu_mhz, self.gpu_mhz, self.celsius = 1500, 1020, 45.0
        self.write("etc/nvpmodel.conf", "< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n")
        self.write("var/lib/nvpmodel/status", "pmode:0002")
        self.write("proc/device-tree/compatible", "nvidia,p3767-0005\0nvidia,tegra234\0")
        self.write("proc/meminfo", "MemTotal: 8388608 kB\nMemAvailable: 4194304 kB\n")
        for number in (1, 3):
            self.write(f"sys/devices/system/cpu/cpu{number}/cpufreq/scaling_governor", "schedutil\n")
        for name in ("min_freq", "max_freq"):
            self.write(f"{GPU}/{name}", "1020000000\n")
        self.write(f"{ZONE.format(0)}/type", "cpu-thermal\n")
        self.write(f"{ZONE.format(1)}/type", "gpu-thermal\n")
        self.update()

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def update(self) -> None:
        cpus = [
            f"cpu{n} {round(busy * TICK)} 0 0 {round(self.now / S * TICK)} 7 0 0 {round(self.stolen * TICK)} 9 9"
            for n, busy in enumerate(self.busy)
        ]
        self.write("proc/stat", "\n".join(["cpu 1 2 3 4 5 6 7 8 9 10", *cpus, "intr 1 2 3", "ctxt 4", ""]))
        for number, mhz in ((0, 9999), (1, self.cpu_mhz), (3, 200)):  # the third sleeps
            self.write(f"sys/devices/system/cpu/cpu{number}/cpufreq/scaling_cur_freq", f"{mhz * 1000}\n")
        self.write(f"{GPU}/cur_freq", f"{self.gpu_mhz * 1_000_000}\n")
        for number in range(2):
            self.write(f"{ZONE.format(number)}/temp", f"{round((self.celsius + number) * 1000)}\n")

    def passes(self, seconds: float, *, own: float = 0.0, others: float = 0.0, stolen: float = 0.0) -> None:
        """So much time goes by, in which this process and others take so many seconds of CPU 1."""
        self.now += round(seconds * S)
        self.own += own
        self.busy[1] += own + others
        self.busy[0] += seconds  # a CPU that this process may not use: it does not matter
        self.stolen += stolen
        self.update()

    def watch(self) -> EnvironmentWatch:
        return EnvironmentWatch(self.root, interval_s=3600, clock=lambda: self.now, own_s=lambda: self.own)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 3}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    return Machine(tmp_path)


def watched(machine: Machine, during: Callable[[EnvironmentWatch], None]) -> Environment:
    with machine.watch() as watch:
        during(watch)
    return watch.summary()


def quiet(machine: Machine, watch: EnvironmentWatch, readings: int = 10) -> None:
    """A window in which this process keeps one CPU busy."""
    began = machine.now
    for _ in range(readings):
        machine.passes(1, own=1)
        watch.read()
    watch.window(began, machine.now)


def test_a_quiet_machine_gets_no_mark(machine: Machine) -> None:
    found = watched(machine, lambda watch: quiet(machine, watch))
    assert found.marks == []
    assert (found.seconds, found.readings) == (10, 12)
    assert (found.cpus, found.pinned) == ((1, 3), True)
    assert found.throttled is None
    assert (found.others_cpu, found.others_cpu_most, found.steal) == pytest.approx((0, 0, 0))
    assert found.cpu_mhz is not None
    assert found.gpu_mhz is not None
    assert (found.cpu_mhz.start, found.cpu_mhz.end, found.cpu_mhz.drops, found.cpu_mhz.readings) == (1500, 1500, 0, 12)
    assert (found.gpu_mhz.low, found.gpu_mhz.median, found.gpu_mhz.high) == (1020, 1020, 1020)
    assert (found.before.power_mode, found.before.governor, found.before.clocks_locked) == (
        "MAXN_SUPER",
        "schedutil",
        True,
    )
    assert found.before.memory_available_mib == 4096
    assert found.unknown == ()


def test_what_other_processes_take_is_a_share_of_the_cpus_in_use(machine: Machine) -> None:
    def during(watch: EnvironmentWatch) -> None:
        machine.passes(10, others=10)  # before anything is timed: the machine may do what it wants
        began = machine.now
        watch.read()
        machine.passes(5, own=4, others=1)
        watch.read()
        machine.passes(5, own=5)
        watch.window(began, machine.now)
        watch.read()
        machine.passes(10, others=10)

    found = watched(machine, during)
    # 1 of 2 CPUs x 10 s; what was taken before and after does not count.
    assert found.others_cpu == pytest.approx(0.05)
    assert (found.others_cpu_most, found.others_bursts) == (pytest.approx(0.1), 0)


def test_a_busy_machine_is_marked(machine: Machine) -> None:
    def during(watch: EnvironmentWatch) -> None:
        began = machine.now
        machine.passes(10, own=10, others=4.6, stolen=0.2)
        watch.window(began, machine.now)

    found = watched(machine, during)
    assert found.others_cpu == pytest.approx(0.23)
    assert found.steal == pytest.approx(0.02)  # of both CPUs, 0.2 s each
    assert found.marks == [
        "the machine was busy while measuring: other processes took 23% of the CPUs",
        "the hypervisor kept 2.0% of the CPUs' time for others while measuring",
    ]


def test_a_burst_that_the_mean_hides_is_marked(machine: Machine) -> None:
    def during(watch: EnvironmentWatch) -> None:
        quiet(machine, watch, 60)
        for _ in range(2):
            machine.passes(1, own=0.5, others=1.2)
            watch.read()
        quiet(machine, watch, 20)

    found = watched(machine, during)
    assert found.others_cpu == pytest.approx(2.4 / 164)
    assert (found.others_cpu_most, found.others_bursts) == (pytest.approx(0.6), 2)
    assert found.marks == [
        "the machine was busy for moments while measuring: other processes took up to 60% of the CPUs, over 25% at "
        "2 of 84 readings"
    ]


def test_two_readings_at_once_are_no_burst(machine: Machine) -> None:
    def during(watch: EnvironmentWatch) -> None:
        quiet(machine, watch)
        machine.passes(0.01, others=0.02)  # two ticks of the kernel's count
        watch.read()
        quiet(machine, watch)

    assert watched(machine, during).marks == []


def test_a_graphics_card_of_its_own_is_one_that_nobody_reads(tmp_path: Path) -> None:
    card = tmp_path / "proc/driver/nvidia/gpus/0000:01:00.0/information"
    card.parent.mkdir(parents=True)
    card.write_text("Model: \t\t NVIDIA L4\nIRQ: 1\n")
    with EnvironmentWatch(tmp_path) as watch:
        pass
    assert watch.summary().unknown == ("cpu_mhz", "temperatures_c", "others_cpu", "discrete_gpu")


def test_a_clock_that_falls_is_marked_and_its_readings_below_the_start_are_counted(machine: Machine) -> None:
    def during(watch: EnvironmentWatch) -> None:
        quiet(machine, watch, 20)
        machine.cpu_mhz, machine.gpu_mhz, machine.celsius = 1190, 1000, 97.5
        quiet(machine, watch, 20)

    found = watched(machine, during)
    assert found.cpu_mhz is not None
    assert (found.cpu_mhz.start, found.cpu_mhz.end, found.cpu_mhz.drops) == (1500, 1190, 21)
    # The GPU's 2 % are no more than a clock floats.
    (mark,) = found.marks
    assert mark == (
        "the CPU clock moved while measuring, between 1,190 and 1,500 MHz; 21 of 42 readings were below its start"
    )
    assert vars(found.temperatures_c["gpu-thermal"]) == {"start": 46.0, "end": 98.5, "max": 98.5}


def test_the_clock_of_an_idle_machine_does_not_count(machine: Machine) -> None:
    def during(watch: EnvironmentWatch) -> None:
        for mhz in (300, 300, 1500, 300):
            machine.cpu_mhz = mhz
            machine.update()
            watch.read()
            if mhz == 1500:
                quiet(machine, watch)
            machine.passes(1)

    found = watched(machine, during)
    assert found.cpu_mhz is not None
    assert (found.cpu_mhz.low, found.cpu_mhz.high) == (1500, 1500)
    assert found.marks == []


def test_a_change_of_the_power_mode_or_the_governor_is_marked(machine: Machine) -> None:
    def during(watch: EnvironmentWatch) -> None:
        machine.write("var/lib/nvpmodel/status", "pmode:0000")
        machine.write("sys/devices/system/cpu/cpu3/cpufreq/scaling_governor", "performance\n")

    assert watched(machine, during).marks == [
        "the power mode changed while measuring, from MAXN_SUPER to 15W",
        "the governor changed while measuring, from schedutil to performance, schedutil",
    ]


def test_the_processors_own_count_of_throttling_is_marked(machine: Machine) -> None:
    def count(core: int, package: int) -> None:
        for number in (1, 3):
            machine.write(f"sys/devices/system/cpu/cpu{number}/thermal_throttle/core_throttle_count", f"{core}\n")
            machine.write(f"sys/devices/system/cpu/cpu{number}/thermal_throttle/package_throttle_count", f"{package}\n")

    count(10, 100)
    found = watched(machine, lambda watch: count(12, 103))
    # Two cores by 2 each, and one package by 3.
    assert found.throttled == 7
    assert found.marks == ["the processor slowed itself down for heat while measuring, 7 times by its count"]


def test_a_sensor_that_sleeps_for_a_while_leaves_a_hole(machine: Machine) -> None:
    def during(watch: EnvironmentWatch) -> None:
        machine.write(f"{ZONE.format(1)}/temp", "")
        watch.read()
        machine.passes(1, own=1)
        machine.celsius = 50
        machine.passes(1)

    with machine.watch() as watch:
        during(watch)
    assert np.isnan(watch.arrays(0)["environment.temp.gpu-thermal"]).tolist() == [False, True, False]
    assert vars(watch.summary().temperatures_c["gpu-thermal"]) == {"start": 46.0, "end": 51.0, "max": 51.0}


def test_the_readings_are_arrays_on_the_clock_of_the_runs(machine: Machine) -> None:
    with machine.watch() as watch:
        machine.passes(2, own=1, others=1)
        watch.read()
        machine.passes(1, own=1, stolen=0.1)
    found = watch.arrays(origin_ns=99 * S)
    assert found["environment.start_ns"].dtype == np.int64
    assert found["environment.start_ns"].tolist() == [1 * S, 3 * S, 4 * S]
    assert all(values.dtype == np.float32 for name, values in found.items() if name != "environment.start_ns")
    assert sorted(found) == [
        "environment.cpu_mhz",
        "environment.gpu_mhz",
        "environment.others_cpu",
        "environment.start_ns",
        "environment.steal",
        "environment.temp.cpu-thermal",
        "environment.temp.gpu-thermal",
    ]
    assert found["environment.others_cpu"][1:] == pytest.approx([0.25, 0])
    assert found["environment.steal"][1:] == pytest.approx([0, 0.1])
    assert np.isnan(found["environment.others_cpu"][0])
    assert found["environment.cpu_mhz"].tolist() == [1500] * 3


def test_a_machine_that_tells_nothing_is_no_error(tmp_path: Path) -> None:
    with EnvironmentWatch(tmp_path) as watch:
        pass
    found = watch.summary()
    assert (found.cpu_mhz, found.gpu_mhz, found.others_cpu, found.steal, found.throttled) == (None,) * 5
    assert (found.temperatures_c, found.marks) == ({}, [])
    # There is no GPU on this chip, so nothing is missing of it.
    assert found.unknown == ("cpu_mhz", "temperatures_c", "others_cpu")
    assert list(watch.arrays(0)) == ["environment.start_ns"]


@pytest.mark.parametrize("stat", ["", "cpu 1 2\n", "cpu1 1 2 3\ncpu3 1 2 3\n", "cpu1 1 2 3 4 5 6 7 8\n", "cpu1 x y z"])
def test_a_proc_stat_of_another_form_is_no_error(machine: Machine, stat: str) -> None:
    def during(watch: EnvironmentWatch) -> None:
        machine.write("proc/stat", stat)

    machine.write("proc/stat", stat)
    found = watched(machine, during)
    assert (found.others_cpu, found.unknown) == (None, ("others_cpu",))


def test_this_machine_is_read_meanwhile_and_goes_into_json() -> None:
    with EnvironmentWatch(interval_s=0.05) as watch:
        began = time.perf_counter_ns()
        time.sleep(0.4)
        watch.window(began, time.perf_counter_ns())
    found = watch.summary()
    assert found.readings >= 4
    values = found.to_dict()
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert values["cpus"] == sorted(os.sched_getaffinity(0))
    assert values["marks"] == found.marks


def test_our_own_work_is_not_that_of_others() -> None:
    def taken(work: Callable[[], object]) -> SimpleNamespace:
        began, cpu = time.perf_counter(), time.process_time()
        with EnvironmentWatch(interval_s=0.1) as watch:
            work()
        wall = time.perf_counter() - began
        return SimpleNamespace(others=watch.summary().others_cpu, own=(time.process_time() - cpu) / wall)

    def spin() -> None:
        until = time.process_time() + 0.6
        while time.process_time() < until:
            pass

    found = taken(spin)
    # Whatever others do here, what is left of the CPUs after our share is the most that they can have had.
    cpus = len(os.sched_getaffinity(0))
    assert found.others <= 1 - found.own / cpus + 0.1


def test_the_files_are_closed_and_the_thread_has_ended(machine: Machine) -> None:
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt), machine.watch():
            raise KeyboardInterrupt
    after = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    assert after == before
