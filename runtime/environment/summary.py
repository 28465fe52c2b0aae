"""What the machine did while it was measured, in numbers and, where it did what it should not, in sentences."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgemim.runtime.environment.sensors import CPU_MHZ, GPU_MHZ
from edgemim.runtime.environment.state import State
from edgemim.runtime.environment.trace import Floats, Trace
from edgemim.runtime.latency.summary import percentile

# Of the median clock: less is how a clock under load floats; more moves a latency by more than its other noise.
CLOCK_MOVED = 0.05
# Of the CPUs in use: a desktop at rest takes less.
BUSY = 0.05
# Of the CPUs in use, between two readings: a mean over minutes hides what took half of a small machine for a second.
BURST = 0.25
STOLEN = 0.01
# In place of a key: a GPU that is not on the chip.
DISCRETE_GPU = "discrete_gpu"
_NS_PER_S = 1e9
# Of the readings: what the clock was at the start, and at the end.
_ENDS = 0.1
# What the kernel counts in ticks is no share of a shorter time.
_LEAST_STEP_S = 0.1


@dataclass(frozen=True, kw_only=True)
class ClockTrace:
    """A clock while something was timed, in MHz.

    Attributes:
        start, end: Median of the first and of the last tenth of the readings.
        median, low, high: Median, 5th and 95th percentile.
        drops: Readings that were more than `CLOCK_MOVED` below the start.
        readings: How many there are.
    """

    start: float
    end: float
    median: float
    low: float
    high: float
    drops: int
    readings: int

    @property
    def moved(self) -> bool:
        """Whether low and high are further apart than `CLOCK_MOVED` of the median."""
        return self.high - self.low > CLOCK_MOVED * self.median


@dataclass(frozen=True, kw_only=True)
class Temperature:
    """Degrees Celsius of one thermal zone: first, last and highest reading."""

    start: float
    end: float
    max: float


@dataclass(frozen=True, kw_only=True)
class Environment:
    """The machine from the first timed run to the last; None where something could not be read.

    Attributes:
        before, after: How it was set up, before and after everything was timed.
        seconds: From the first timed run to the last.
        readings: How often it was looked at, in all.
        cpus: Numbers of the CPUs that this process may use.
        pinned: Whether those are fewer than the machine has running.
        cpu_mhz: The fastest of these CPUs, while something was timed.
        gpu_mhz: The GPU on the chip, likewise.
        temperatures_c: By thermal zone.
        throttled: How often these CPUs, by their own count, slowed down for heat; x86 only.
        others_cpu: Share of these CPUs that other processes, and interrupts, took, 0 to 1.
        others_cpu_most: The largest such share between two readings.
        others_bursts: Between how many pairs of readings it was above `BURST`.
        steal: Share of them that the hypervisor kept for others, 0 to 1.
        unknown: Names of the above that this machine does not tell, of those that it should have; and `discrete_gpu`
            where it has one, whose clock and heat nobody reads.
    """

    before: State
    after: State
    seconds: float
    readings: int
    cpus: tuple[int, ...]
    pinned: bool
    cpu_mhz: ClockTrace | None
    gpu_mhz: ClockTrace | None
    temperatures_c: dict[str, Temperature]
    throttled: int | None
    others_cpu: float | None
    others_cpu_most: float | None
    others_bursts: int | None
    steal: float | None
    unknown: tuple[str, ...]

    @property
    def marks(self) -> list[str]:
        """Sentences on what speaks against the numbers measured meanwhile; none if nothing does."""
        found = [*_about_clock("CPU", self.cpu_mhz), *_about_clock("GPU", self.gpu_mhz)]
        if self.throttled:
            found.append(
                f"the processor slowed itself down for heat while measuring, {self.throttled} times by its count"
            )
        if self.others_cpu is not None and self.others_cpu > BUSY:
            found.append(
                f"the machine was busy while measuring: other processes took {self.others_cpu:.0%} of the CPUs"
            )
        elif self.others_bursts:
            found.append(
                f"the machine was busy for moments while measuring: other processes took up to "
                f"{self.others_cpu_most:.0%} of the CPUs, over {BURST:.0%} at {self.others_bursts} of "
                f"{self.readings} readings"
            )
        if self.steal is not None and self.steal > STOLEN:
            found.append(f"the hypervisor kept {self.steal:.1%} of the CPUs' time for others while measuring")
        for what in ("power mode", "governor"):
            old, new = (getattr(state, what.replace(" ", "_")) for state in (self.before, self.after))
            if old != new:
                found.append(f"the {what} changed while measuring, from {old} to {new}")
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the report."""
        return asdict(self) | {"cpus": list(self.cpus), "unknown": list(self.unknown), "marks": self.marks}


def summarise_environment(
    trace: Trace,
    windows: Sequence[tuple[int, int]],
    before: State,
    after: State,
    cpus: Sequence[int],
    *,
    throttled: int | None,
    has_gpu: bool,
    has_card: bool,
) -> Environment:
    """What the readings come to.

    Args:
        trace: All readings.
        windows: Begin and end, on the clock of the readings, of what was timed.
        before, after: How the machine was set up.
        cpus: Numbers of the CPUs in use.
        throttled: How often they slowed down for heat.
        has_gpu: Whether there is a GPU on the chip, whose clock should be known.
        has_card: Whether there is a GPU of its own, of which nothing is read.
    """
    began = min((window[0] for window in windows), default=int(trace.times[0]))
    ended = max((window[1] for window in windows), default=int(trace.times[-1]))
    inside = trace.inside(windows)
    clocks = {name: _clock(trace.column(name), inside) for name in (CPU_MHZ, GPU_MHZ)}
    bursts = _others_by_step(trace, began, ended)
    found: dict[str, Any] = {
        CPU_MHZ: clocks[CPU_MHZ],
        GPU_MHZ: clocks[GPU_MHZ],
        "temperatures_c": {name: _temperature(values) for name, values in trace.zones().items()},
        "others_cpu": trace.others(began, ended),
    }
    expected = [name for name in found if name != GPU_MHZ or has_gpu]
    return Environment(
        before=before,
        after=after,
        seconds=(ended - began) / _NS_PER_S,
        readings=len(trace.times),
        cpus=tuple(cpus),
        pinned=len(cpus) < (os.cpu_count() or 1),
        throttled=throttled,
        others_cpu_most=max(bursts, default=None),
        others_bursts=sum(share > BURST for share in bursts) if bursts else None,
        steal=trace.steal(began, ended),
        unknown=(*(name for name in expected if found[name] in (None, {})), *([DISCRETE_GPU] if has_card else [])),
        **found,
    )


def _clock(values: Floats | None, inside: npt.NDArray[np.bool_]) -> ClockTrace | None:
    """A clock in the readings inside the windows; in all of them if it could not be read there."""
    if values is None:
        return None
    known = np.isfinite(values)
    found = values[known & inside] if (known & inside).any() else values[known]
    ends = max(1, round(len(found) * _ENDS))
    start = float(np.median(found[:ends]))
    return ClockTrace(
        start=start,
        end=float(np.median(found[-ends:])),
        median=percentile(found, 50),
        low=percentile(found, 5),
        high=percentile(found, 95),
        drops=int((found < (1 - CLOCK_MOVED) * start).sum()),
        readings=len(found),
    )


def _others_by_step(trace: Trace, began: int, ended: int) -> list[float]:
    """What others took between every two readings that lie within what was timed."""
    steps = zip(trace.times[:-1], trace.times[1:], strict=True)
    inside = [step for step in steps if began <= step[0] and step[1] <= ended]
    shares = [trace.others(*step) for step in inside if step[1] - step[0] >= _LEAST_STEP_S * _NS_PER_S]
    return [share for share in shares if share is not None]


def _temperature(values: Floats) -> Temperature:
    found = values[np.isfinite(values)]
    return Temperature(start=float(found[0]), end=float(found[-1]), max=float(found.max()))


def _about_clock(name: str, clock: ClockTrace | None) -> list[str]:
    if clock is None or not clock.moved:
        return []
    drops = f"; {clock.drops} of {clock.readings} readings were below its start" if clock.drops else ""
    return [f"the {name} clock moved while measuring, between {clock.low:,.0f} and {clock.high:,.0f} MHz{drops}"]
