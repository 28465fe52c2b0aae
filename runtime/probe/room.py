"""Whether sessions that were each loaded alone fit together into this process, under its limits and in this memory.

Each was measured in a process of its own, where it came to its end; together they may need more than there is, and
then the kernel or a library would end this process and everything measured so far. What importing a vendor library
takes is counted once for each backend, and not at all where that is here already.
"""

from __future__ import annotations

import re
import resource
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgemim.errors import DeviceError
from edgemim.runtime.probe.limits import group_folders, read_text

_NOW, _MOST = ("VmRSS", "VmSize", "VmData"), ("VmHWM", "VmPeak", "VmData")
_KIB = 1024
_MB = 1e6


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What a process has taken of what can be limited, in bytes.

    Attributes:
        resident: Of the machine's memory, and of its control group's.
        address: Of RLIMIT_AS.
        data: Of RLIMIT_DATA.
    """

    resident: int
    address: int
    data: int

    def __sub__(self, other: Taken) -> Taken:
        return Taken(
            resident=max(0, self.resident - other.resident),
            address=max(0, self.address - other.address),
            data=max(0, self.data - other.data),
        )


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """What one session took in its own process.

    Attributes:
        label: `int8-linear on openvino`.
        backend, module: Its backend, and the name by which the vendor library is imported.
        library: For importing that.
        own: For loading and running the session beyond that.
    """

    label: str
    backend: str
    module: str
    library: Taken
    own: Taken


def taken(root: Path = Path("/"), *, at_most: bool = False) -> Taken | None:
    """What this process has taken now; None where the kernel does not tell.

    Args:
        at_most: The most at any time, instead, but for the data, of which the kernel keeps no mark.
    """
    values, names = _status(root), _MOST if at_most else _NOW
    if not set(names) <= values.keys():
        return None
    resident, address, data = (values[name] for name in names)
    return Taken(resident=resident, address=address, data=data)


def refuse_if_too_large(footprints: Sequence[Footprint], root: Path = Path("/")) -> None:
    """Stop before sessions are opened that together need more than is left.

    Args:
        footprints: Of all that will be open at the same time.

    Raises:
        DeviceError: They would not fit; names the backends, what is needed, what is left, and what to do.
    """
    for kind, left, called in _rooms(root):
        need = sum(getattr(one.own, kind) for one in footprints)
        need += sum(getattr(one.library, kind) for one in _libraries(footprints))
        if footprints and need > left:
            labels = ", ".join(one.label for one in footprints)
            raise DeviceError(
                f"{labels} ran alone, but open together they need about {need / _MB:,.0f} MB, and "
                f"{max(0, left) / _MB:,.0f} MB are left ({called}); close other programs, raise the limit, or measure "
                "fewer at a time with --candidate"
            )


def _libraries(footprints: Iterable[Footprint]) -> list[Footprint]:
    """Of each backend that was not imported here yet, the one whose import took most."""
    most: dict[str, Footprint] = {}
    for one in footprints:
        if one.module not in sys.modules:
            known = most.get(one.backend)
            most[one.backend] = one if known is None or known.library.resident < one.library.resident else known
    return list(most.values())


def _rooms(root: Path) -> Iterator[tuple[str, int, str]]:
    """The field of `Taken`, how many bytes of it are left here, and what limits it."""
    now = _status(root)
    for kind, limit, key, called in (
        ("address", resource.RLIMIT_AS, "VmSize", "ulimit -v"),
        ("data", resource.RLIMIT_DATA, "VmData", "ulimit -d"),
    ):
        soft, _ = resource.getrlimit(limit)
        if soft != resource.RLIM_INFINITY and key in now:
            yield kind, soft - now[key], called
    for folder, (limit_file, usage_file, cache) in group_folders(root):
        limit_text, usage = (read_text(folder / name).strip() for name in (limit_file, usage_file))
        if limit_text.isdecimal() and usage.isdecimal():
            # The kernel gives cached files back before it ends a process.
            files = re.search(rf"^{cache} (\d+)$", read_text(folder / "memory.stat"), re.MULTILINE)
            left = int(limit_text) - int(usage) + (int(files[1]) if files else 0)
            yield "resident", left, "the limit of the control group"
    available = re.search(r"^MemAvailable:\s*(\d+) kB", read_text(root / "proc/meminfo"), re.MULTILINE)
    if available:
        yield "resident", int(available[1]) * _KIB, "this machine's memory"


def _status(root: Path) -> dict[str, int]:
    """The memory lines of this process's status, in bytes."""
    found = re.findall(r"^(Vm\w+):\s*(\d+) kB", read_text(root / "proc/self/status"), re.MULTILINE)
    return {name: int(kibibytes) * _KIB for name, kibibytes in found}
