"""RAPL: the energy counters of x86 processors, Intel's and AMD's.

A counter holds microjoules and starts again at 0 after `max_energy_range_uj`, which takes minutes under load; who
reads it more often than that misses no such turn. The total is every package and its memory. Cores and the GPU lie
inside the package, the platform ("psys") around it: they are reported, not added.

Source: Linux, Documentation/power/powercap/powercap.rst; CVE-2020-8694 for why only root may read them
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from edgemim.runtime.power._base import Source, UnreadableError, number, words

_JOULES = 1e-6
_ROOT_ONLY = "RAPL's energy counters are for root alone, since CVE-2020-8694"
_LET_READ = "run: sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj (until the next boot)"


@dataclass(frozen=True, kw_only=True)
class Zone:
    """One counter: its file, and after how many microjoules it starts again."""

    name: str
    file: Path
    turn_uj: int


class Rapl(Source):
    """Zones of this machine's processors, in joules since this object was made."""

    name: ClassVar[str] = "rapl"
    counts: ClassVar[bool] = True

    def __init__(self, zones: tuple[Zone, ...]) -> None:
        self._zones = zones
        self._last = {zone.name: number(zone.file) for zone in zones}
        self._sum_uj = dict.fromkeys(self._last, 0)
        self.rails = tuple(self._last)
        memory = [name for name in self.rails if name.endswith("/dram")]
        self.parts = (*(name for name in self.rails if re.fullmatch(r"package-\d+", name)), *memory)
        self.averages_s = 0.0
        self.scope = f"the processor packages, {'and their' if memory else 'without'} memory"

    def read(self) -> dict[str, float]:
        for zone in self._zones:
            now = number(zone.file)
            self._sum_uj[zone.name] += (now - self._last[zone.name]) % zone.turn_uj
            self._last[zone.name] = now
        return {name: total * _JOULES for name, total in self._sum_uj.items()}


def find(root: Path) -> Rapl | None:
    """The counters of this machine; None if the kernel shows none, as in a virtual machine.

    Raises:
        UnreadableError: They are there and may not be read.
    """
    # Not "intel-rapl-mmio:0", which counts the same package once more.
    folders = sorted((root / "sys/class/powercap").glob("intel-rapl:*"))
    if not folders:
        return None
    try:
        return Rapl(tuple(_zone(folder) for folder in folders))
    except PermissionError as error:
        raise UnreadableError(_ROOT_ONLY, _LET_READ) from error
    except (OSError, ValueError) as error:
        raise UnreadableError(f"RAPL's energy counters cannot be read: {error}") from error


def _zone(folder: Path) -> Zone:
    """`intel-rapl:0` is a package; `intel-rapl:0:1` is a part of it, such as `package-0/dram`."""
    parent, _, _ = folder.name.rpartition(":")
    above = words(folder.with_name(parent) / "name") if parent.count(":") else ""
    turn = number(folder / "max_energy_range_uj")
    if turn <= 0:
        raise ValueError(f"{folder.name} counts up to {turn}")
    name = words(folder / "name") or folder.name
    return Zone(name=f"{above}/{name}" if above else name, file=folder / "energy_uj", turn_uj=turn)
