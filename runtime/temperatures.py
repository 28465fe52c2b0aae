"""Temperatures of the machine, as the kernel's thermal zones tell them."""

from __future__ import annotations

import re
from collections import Counter
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


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", errors="replace").strip("\0\n ")
    except OSError:
        return ""
