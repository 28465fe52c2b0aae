"""Rows that are run again with as many updates as fit into the time of another's: which ones, and how many fit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from .comparison import is_convnet, is_ranked, rows
from .cost import FINETUNE, FINETUNE_CONVNET
from .presets import CONVNET_REFERENCE, REFERENCE, Preset

# A method whose update costs what one of the reference costs, but for this share, keeps the number of its updates.
_NEAR = 0.05
# Without updates but those of fine-tuning, which are the same everywhere.
_NO_UPDATES = ("scratch", "scratch-convnet")


def read_seconds(file: Path, command: str) -> dict[str, float]:
    """Median seconds of an update of each row, from a `timing.json`.

    Args:
        file: It.
        command: That writes it.

    Raises:
        SystemExit: There is no such file.
    """
    if not file.is_file():
        raise SystemExit(f"there is no {file}, which says what an update of each row costs; first run: {command}")
    return {name: float(row["median_s"]) for name, row in json.loads(file.read_text("utf-8"))["rows"].items()}


def updates_in_time(preset: Preset, seconds: Mapping[str, float], command: str) -> dict[str, int]:
    """Of each ranked row, how many of its updates take as long as all those of MAE; of a convnet, as all of SparK's.

    A row that costs about as much as that keeps the preset's number.

    Args:
        preset: Sizes and lengths.
        seconds: Of an update of each row; see `read_seconds`.
        command: That measures them.

    Raises:
        SystemExit: A row is missing; names it.
    """
    compared = {
        row: CONVNET_REFERENCE if is_convnet(row) else REFERENCE
        for row in rows()
        if is_ranked(row, preset) and row not in _NO_UPDATES
    }
    lacking = sorted({part for row in {*compared, *compared.values()} for part in _parts(row)} - set(seconds))
    if lacking:
        raise SystemExit(f"what an update of {', '.join(lacking)} costs was not measured; run again: {command}")
    return {
        row: _fitting(preset.updates, _seconds(row, seconds) / seconds[reference])
        for row, reference in compared.items()
    }


def _seconds(row: str, seconds: Mapping[str, float]) -> float:
    """Of an update of the row, on average."""
    parts = _parts(row)
    return sum(seconds[part] for part in parts) / len(parts)


def _parts(row: str) -> tuple[str, ...]:
    """What the updates of a row are, in equal shares: the names under which they were measured."""
    special = {
        "selfdistill": ("mae", row),
        "scratch-long": (FINETUNE,),
        "scratch-long-convnet": (FINETUNE_CONVNET,),
    }
    return special.get(row, (row,))


def _fitting(updates: int, ratio: float) -> int:
    """How many updates fit into the time of `updates` others, of which each takes 1 / `ratio` of the time of one."""
    return updates if abs(ratio - 1) <= _NEAR else max(1, round(updates / ratio))
