"""How much memory this process has held at most."""

from __future__ import annotations

import re
import resource
from pathlib import Path


def peak_resident_mb(root: Path = Path("/")) -> float:
    """Most resident memory of this process since it began to run its program, in 10^6 bytes.

    The kernel's own high-water mark where it shows one: `getrusage` also counts the moment before the program was
    started, when a child still had the memory of its parent.
    """
    try:
        status = (root / "proc/self/status").read_text("utf-8", errors="replace")
    except OSError:
        status = ""
    found = re.search(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE)
    kibibytes = int(found[1]) if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kibibytes * 1024 / 1e6
