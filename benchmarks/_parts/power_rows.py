"""The rows of `compare_power.py`: which are still to be made, what they come to, and files of them put together."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]

KINDS = ("same", "slowed")
# Of the model's time: a row whose work was less or more says nothing of 5 %.
VALID = (0.045, 0.055)


def is_valid(kind: str, share: float | None) -> bool:
    """Whether a row counts: of the same thing twice always, else by what the work really took."""
    return kind == "same" or (share is not None and VALID[0] <= share <= VALID[1])


def is_made(rows: Sequence[Row], kind: str, number: int) -> bool:
    """Whether there is a row that counts."""
    return any((row["kind"], row["number"]) == (kind, number) and row["valid"] for row in rows)


def numbers(text: str) -> range:
    """`0-4` or `3`: numbers of comparisons, both ends included.

    Raises:
        ValueError: Something else.
    """
    first, _, last = text.partition("-")
    found = range(int(first), int(last or first) + 1)
    if not found or found.start < 0:
        raise ValueError(f"{text!r} names no comparison; give one number, or the first and the last: 0-4")
    return found


def read(file: Path, settings: Mapping[str, Any]) -> tuple[list[Row], list[dict[str, Any]]]:
    """Rows and parts that earlier calls with these settings made; none where there is no file.

    Raises:
        SystemExit: The file is of other settings.
    """
    if not file.is_file():
        return [], []
    found = json.loads(file.read_text("utf-8"))
    if found["settings"] != dict(settings):
        raise SystemExit(f"{file} is of other settings ({found['settings']}); remove it, or choose another --out")
    return found["rows"], found["parts"]


def merged(files: Sequence[Path]) -> tuple[dict[str, Any], list[Row], list[dict[str, Any]]]:
    """Settings, rows and parts of several files; every row still says which part made it.

    Raises:
        SystemExit: Their settings differ, or two of them made the same comparison.
    """
    settings = json.loads(files[0].read_text("utf-8"))["settings"]
    rows: list[Row] = []
    parts: list[dict[str, Any]] = []
    for file in files:
        more, of_file = read(file, settings)
        twice = [row for row in more if row["valid"] and is_made(rows, row["kind"], row["number"])]
        if twice:
            raise SystemExit(f"{file} holds {twice[0]['kind']} {twice[0]['number']}, which another file has too")
        rows += [row | {"part": row["part"] + len(parts)} for row in more]
        parts += of_file
    rows.sort(key=lambda row: (row["number"], row["kind"], row["part"]))
    return settings, rows, parts


def part_of(parts: list[dict[str, Any]], new: Mapping[str, Any]) -> int:
    """The place of this call among the parts: a later call of the same command and commit is the same part."""
    for place, part in enumerate(parts):
        if all(part[name] == new[name] for name in ("command", "commit", "cpus")):
            return place
    parts.append(dict(new))
    return len(parts) - 1


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    """By kind: how many count; of these, how many came out right, what was said, and what the work took."""
    found: dict[str, Any] = {}
    for kind in KINDS:
        of_kind = [row for row in rows if row["kind"] == kind]
        kept = [row for row in of_kind if row["valid"]]
        said = [row["difference"] for row in kept]
        shares = [row["injected_share"] for row in kept if row["injected_share"] is not None]
        found[kind] = {
            "comparisons": len(kept),
            "left_out": len(of_kind) - len(kept),
            "right": sum(row["right"] for row in kept),
            "said": {word: said.count(word) for word in sorted(set(said))},
            "half_width": round(statistics.median(row["high"] / row["low"] - 1 for row in kept) / 2, 5)
            if kept
            else None,
            "injected_share": [min(shares), max(shares)] if shares else None,
        }
    return found
