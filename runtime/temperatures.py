"""Temperatures of the machine, as the kernel's thermal zones tell them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path


def thermal_zones(root: Path) -> dict[str, Path]:
    """Folder of every zone, by its type; a second zone of a type is called `TYPE 2`."""
    found: dict[str, Path] = {}
    seen: Counter[str] = Counter()
    for folder in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        kind = _text(folder / "type")
        if kind:
            seen[kind] += 1
            found[kind if seen[kind] == 1 else f"{kind} {seen[kind]}"] = folder
    return found


def read_temperatures(root: Path) -> dict[str, float]:
    """Degrees Celsius by zone; a zone whose sensor is asleep refuses to be read and is left out."""
    texts = {name: _text(folder / "temp") for name, folder in thermal_zones(root).items()}
    return {name: int(text) / 1000 for name, text in texts.items() if re.fullmatch(r"-?\d+", text)}


def board_thermometer(root: Path = Path("/")) -> Callable[[], float | None] | None:
    """What reads the hottest zone of a board, in degrees Celsius, or None where all sensors sleep.

    A board is a machine that a device tree describes. It has a small heat sink, or none: how fast it is depends on how
    long it has been at work. None on other machines, and where there are no thermal zones.
    """
    if not (root / "proc/device-tree").exists() or not thermal_zones(root):
        return None
    return lambda: max(read_temperatures(root).values(), default=None)


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", errors="replace").strip("\0\n ")
    except OSError:
        return ""
