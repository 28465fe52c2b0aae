"""How much memory a process took; imports nothing that would count."""

from __future__ import annotations

from pathlib import Path


def peak_memory_mib() -> float:
    """Largest resident memory of this process so far, in MiB.

    From /proc, because `ru_maxrss` of a fresh process still holds the peak of the one that started it.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("this kernel does not tell the peak memory of a process")
