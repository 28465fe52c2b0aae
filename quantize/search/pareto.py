"""The candidates that no other one beats in speed and closeness at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]


def closeness(row: Row) -> float | None:
    """How right a row is: its top-1 where there are labels, else its cosine with fp32."""
    accuracy = row["accuracy"]
    if accuracy is None:
        return None
    value = accuracy["top1"] if accuracy["top1"] is not None else accuracy["cosine"]
    return None if value is None else float(value)


def pareto_front(rows: Sequence[Row]) -> list[Row]:
    """Rows that no other row beats in one of latency and closeness without losing in the other; fastest first.

    Rows without a latency or a closeness take no part.
    """
    known = [(float(row["latency"]["p50_ms"]), closeness(row), row) for row in rows if row["latency"] is not None]
    ordered = sorted(((ms, right, row) for ms, right, row in known if right is not None), key=lambda x: (x[0], -x[1]))
    front: list[Row] = []
    best = float("-inf")
    for _, right, row in ordered:
        if right > best:
            front.append(row)
            best = right
    return front
