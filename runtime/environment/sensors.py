"""The files that tell how the machine fares right now, opened once: reading them again is a matter of microseconds.

Reading must not disturb what is measured meanwhile, so nothing is looked for and nothing is parsed that can be
left out.

Source: Linux kernel, Documentation/filesystems/proc.rst for /proc/stat; Documentation/admin-guide/pm/cpufreq.rst;
    arch/x86/kernel/cpu/mce/therm_throt.c for the throttle counters
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from edgemim.runtime.tegra import find_gpu_clock
from edgemim.runtime.temperatures import thermal_zones

CPU_MHZ, GPU_MHZ = "cpu_mhz", "gpu_mhz"
BUSY_S, STEAL_S, OWN_S = "busy_s", "steal_s", "own_s"
ZONE = "temp."
_MHZ_PER_KHZ, _MHZ_PER_HZ, _CELSIUS_PER_MILLI = 1e-3, 1e-6, 1e-3
# Files that are open at a time are a limited good.
_MOST_CLOCKS = 64
_NUMBER_BYTES = 32
# Ten numbers of at most 20 digits, and the CPU's name.
_STAT_LINE_BYTES = 256


def own_cpu_s() -> float:
    """Seconds of CPU time that this process, and the children that it waited for, have taken."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


class Sensors:
    """What can be read on this machine, by name; what cannot be is left out.

    `cpu_mhz`, of the fastest of the CPUs in use, the first 64 of them: which one a run is on is not known, and idle
    ones may sleep.
    `gpu_mhz`, of the GPU on the chip.
    `busy_s`, `steal_s`: seconds since the machine started, of all CPUs in use together, that they were busy, and that
    the hypervisor kept them from running. `own_s`: those of this process.
    `temp.ZONE`: degrees Celsius of every thermal zone.
    """

    def __init__(self, root: Path, cpus: Sequence[int], own_s: Callable[[], float] = own_cpu_s) -> None:
        """Open the files.

        Args:
            root: The folder that holds `proc` and `sys`.
            cpus: Numbers of the CPUs in use.
            own_s: CPU time of this process, in seconds.
        """
        self._held = contextlib.ExitStack()
        folders = [_folder(root, number) for number in cpus[:_MOST_CLOCKS]]
        gpu = find_gpu_clock(root)
        readers: dict[str, Callable[[], float]] = {}
        self._add(readers, CPU_MHZ, [f / "cpufreq/scaling_cur_freq" for f in folders], _MHZ_PER_KHZ)
        self._add(readers, GPU_MHZ, [] if gpu is None else [gpu / "cur_freq"], _MHZ_PER_HZ)
        for name, zone in thermal_zones(root).items():
            self._add(readers, f"{ZONE}{name}", [zone / "temp"], _CELSIUS_PER_MILLI)
        self._readers = list(readers.values())
        self._stat = self._open(root / "proc/stat")
        self._stat_bytes = _STAT_LINE_BYTES * (max(cpus, default=0) + 2)
        self._wanted = {f"cpu{number}".encode() for number in cpus}
        self._own_s = own_s
        self._tick_s = 1 / os.sysconf("SC_CLK_TCK")
        self.names = (*readers, *((BUSY_S, STEAL_S, OWN_S) if self._stat is not None else ()))

    def read(self) -> list[float]:
        """One number for each of `names`; nan where a file cannot be read now, as of a sensor that sleeps."""
        values = [read() for read in self._readers]
        if self._stat is not None:
            values += [*self._cpu_seconds(self._stat), self._own_s()]
        return values

    def close(self) -> None:
        """Close the files."""
        self._held.close()

    def _add(
        self,
        readers: dict[str, Callable[[], float]],
        name: str,
        files: Sequence[Path],
        unit: float,
    ) -> None:
        """A reader of these files under the name, if any of them can be opened."""
        opened = [descriptor for descriptor in map(self._open, files) if descriptor is not None]
        if opened:
            readers[name] = lambda: unit * _largest(opened)

    def _open(self, path: Path) -> int | None:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        self._held.callback(os.close, descriptor)
        return descriptor

    def _cpu_seconds(self, stat: int) -> tuple[float, float]:
        """Busy and stolen seconds of the CPUs in use; nan where /proc/stat is not as expected."""
        busy = steal = seen = 0
        try:
            for line in os.pread(stat, self._stat_bytes, 0).splitlines():
                if not line.startswith(b"cpu"):
                    break
                name, *ticks = line.split(maxsplit=9)
                if name in self._wanted:
                    # A guest's time is in the user's already; waiting for a disk is idle time.
                    user, nice, system, _idle, _waiting, irq, softirq, stolen = map(int, ticks[:8])
                    busy, steal, seen = busy + user + nice + system + irq + softirq, steal + stolen, seen + 1
        except (OSError, ValueError):
            return math.nan, math.nan
        if seen < len(self._wanted):
            return math.nan, math.nan
        return busy * self._tick_s, steal * self._tick_s


def read_throttle_count(root: Path, cpus: Sequence[int]) -> int | None:
    """How often these CPUs, and the package they are in, slowed down for heat since the machine started; x86 only."""
    # The whole package is counted once for each of its cores.
    files = [_folder(root, number) / "thermal_throttle/core_throttle_count" for number in cpus]
    files += [_folder(root, number) / "thermal_throttle/package_throttle_count" for number in cpus[:1]]
    found: list[int] = []
    for file in files:
        with contextlib.suppress(OSError, ValueError):
            found.append(int(file.read_text("ascii")))
    return sum(found) if found else None


def _folder(root: Path, cpu: int) -> Path:
    return root / f"sys/devices/system/cpu/cpu{cpu}"


def _largest(descriptors: Sequence[int]) -> float:
    """The largest of the whole numbers in these files; those that cannot be read now do not count."""
    found: list[int] = []
    for descriptor in descriptors:
        with contextlib.suppress(OSError, ValueError):
            found.append(int(os.pread(descriptor, _NUMBER_BYTES, 0)))
    return max(found, default=math.nan)
