"""Which candidate ships, and the sentence that says why, from the rows of a report alone.

A row is one entry of `report["candidates"]`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]

_NOTICEABLE = 0.05


def label(row: Row) -> str:
    """`int8-nncf on openvino`."""
    return f"{row['name']} on {row['backend']}"


def choose(rows: Sequence[Row]) -> Row | None:
    """The passing row with the smallest p50, but fp32 where nothing is clearly faster than it."""
    passing = [row for row in rows if row["passed"]]
    fastest = min(passing, key=lambda row: row["latency"]["p50_ms"], default=None)
    if fastest is None or fastest["precision"] == "fp32" or fastest["speed"] is None:
        return fastest
    full = next((row for row in passing if label(row) == fastest["speed"]["versus"]), None)
    return full if full is not None and _unclear(fastest["speed"]) else fastest


def verdict(rows: Sequence[Row], chosen: Row | None, processor: str) -> str:
    """One sentence, lower case, without a full stop.

    Args:
        rows: Every candidate on every backend.
        chosen: What `choose` returned.
        processor: `CPU` or `GPU`.
    """
    if chosen is None:
        return "nothing ships: " + "; ".join(f"{label(row)}: {_trouble(row)}" for row in rows if not _spare(row))
    ship = f"ship {label(chosen)} (p50 {chosen['latency']['p50_ms']:.3g} ms)"
    rival = _rival(rows, chosen)
    if rival is None:
        return ship
    if rival["latency"] is None:
        return f"{label(rival)} is disqualified, {_trouble(rival)}: {ship}"
    low = rival if chosen["precision"] == "fp32" else chosen
    found = f"on this {processor}, {label(low)} is {_speed(low)} {low['speed']['versus']}"
    if low is chosen:
        return f"{found}{_passes(low)}: {ship}"
    return f"{found}{'' if low['passed'] else f', and {_trouble(low)}'}: {ship}"


def _rival(rows: Sequence[Row], chosen: Row) -> Row | None:
    """The fastest row on the other side of fp32, or else one that was disqualified there."""
    other = [r for r in rows if (r["precision"] == "fp32") != (chosen["precision"] == "fp32") and not _spare(r)]
    timed = [row for row in other if row["latency"] is not None and chosen["speed"] and row["speed"]]
    fastest = min(timed, key=lambda row: row["latency"]["p50_ms"], default=None)
    return fastest or next((row for row in other if row["latency"] is None), None)


def _spare(row: Row) -> bool:
    """A run that only served as the reference for accuracy."""
    return bool(row["reference_only"])


def _speed(row: Row) -> str:
    speed = row["speed"]
    ratio = speed["ratio"]
    if _unclear(speed):
        return "about as fast as"
    return f"{ratio:.1f}x slower than" if ratio > 1 else f"{1 / ratio:.1f}x faster than"


def _unclear(speed: Mapping[str, float]) -> bool:
    """Whether the difference is too small to notice, or not there in every round."""
    return speed["low"] <= 1 <= speed["high"] or abs(speed["ratio"] - 1) < _NOTICEABLE


def _passes(row: Row) -> str:
    return " and passes every gate" if row["gates"] else ""


def _trouble(row: Row) -> str:
    if row["disqualified"] is not None:
        return str(row["disqualified"])
    missed = [gate["sentence"] for gate in row["gates"] if not gate["passed"]]
    return ", ".join(missed) or "it was not measured"
