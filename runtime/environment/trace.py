"""Readings of the machine over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgemim.runtime.environment.sensors import BUSY_S, CPU_MHZ, GPU_MHZ, OWN_S, STEAL_S, ZONE

Floats = npt.NDArray[np.float64]
OTHERS, STEAL = "others_cpu", "steal"
_NS_PER_S = 1e9


@dataclass(frozen=True, kw_only=True)
class Trace:
    """Readings of the sensors.

    Attributes:
        times: When, nanoseconds of the clock, int64 [M].
        names: What was read, as `Sensors.names`.
        values: [M, names], nan where one could not be read.
        cpus: Number of CPUs in use.
    """

    times: npt.NDArray[np.int64]
    names: tuple[str, ...]
    values: Floats
    cpus: int

    def column(self, name: str) -> Floats | None:
        """Readings of one sensor, [M]; None where it was never read."""
        if name not in self.names:
            return None
        found = self.values[:, self.names.index(name)]
        return found if np.isfinite(found).any() else None

    def zones(self) -> dict[str, Floats]:
        """Temperatures in degrees Celsius, [M] each, by thermal zone."""
        columns = {name[len(ZONE) :]: self.column(name) for name in self.names if name.startswith(ZONE)}
        return {name: values for name, values in columns.items() if values is not None}

    def inside(self, windows: Sequence[tuple[int, int]]) -> npt.NDArray[np.bool_]:
        """Which readings fell into the windows, [M]; all where none did, or where there are no windows."""
        found = np.zeros(len(self.times), dtype=bool)
        for began, ended in windows:
            found |= (began <= self.times) & (self.times <= ended)
        return found if found.any() else ~found

    def others(self, began: float, ended: float) -> float | None:
        """Share of the CPUs in use that other processes took between two moments, 0 to 1; None where unknown."""
        busy, own = self.column(BUSY_S), self.column(OWN_S)
        return None if busy is None or own is None else self._share(busy - own, began, ended)

    def steal(self, began: float, ended: float) -> float | None:
        """The same of what the hypervisor kept for others."""
        stolen = self.column(STEAL_S)
        return None if stolen is None else self._share(stolen, began, ended)

    def shown(self) -> dict[str, Floats]:
        """Every series for people, [M] each: clocks, shares since the reading before, temperatures."""
        found = {name: self.column(name) for name in (CPU_MHZ, GPU_MHZ)}
        for name, share in ((OTHERS, self.others), (STEAL, self.steal)):
            steps = [share(*step) for step in zip(self.times[:-1], self.times[1:], strict=True)]
            values = np.array([None, *steps], dtype=np.float64)  # None becomes nan
            found[name] = values if np.isfinite(values).any() else None
        found |= {f"{ZONE}{name}": values for name, values in self.zones().items()}
        return {name: values for name, values in found.items() if values is not None}

    def _share(self, seconds: Floats, began: float, ended: float) -> float | None:
        """Of the CPUs' time between two moments, how much a counter grew, read off between its readings."""
        known = np.isfinite(seconds)
        elapsed = (ended - began) / _NS_PER_S
        if known.sum() < 2 or elapsed <= 0:
            return None
        # From the first reading on: nanoseconds since the machine started are too many digits for a float.
        times, moments = self.times[known] - self.times[0], np.array([began, ended]) - self.times[0]
        first, last = np.interp(moments, times, seconds[known])
        # The kernel counts whole ticks, and this process's own time more finely: the difference may be a little off.
        return float(np.clip((last - first) / (elapsed * self.cpus), 0.0, 1.0))
