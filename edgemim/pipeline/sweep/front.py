"""Which entries are worth a second look: the front, those near it, and those near the limit.

Entries are compared by what is known of them. A top-1 on the same images compares all models. Agreement and cosine say
how close an entry is to its own model in fp32, and so compare nothing but the precisions of one model. Of random
weights nothing is known but their number: there more parameters and more pixels at less time count, as room to learn
in, which is no promise of accuracy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgemim.pipeline.sweep.entries import p50

Entry = Mapping[str, Any]
_Point = tuple[float, tuple[str, ...], tuple[float, ...]]

NEAR = 0.10


def score(entry: Entry) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """What an entry is compared by: what it may be compared with, and numbers of which more is better."""
    accuracy = entry["accuracy"] or {}
    if accuracy.get("top1") is not None:
        images = (entry["evaluation"] or {}).get("sha256")
        return ("top1", str(images)), (float(accuracy["top1"]),)
    for name in ("agreement", "cosine"):
        if accuracy.get(name) is not None:
            return (name, entry["model"], *map(str, entry["input"])), (float(accuracy[name]),)
    height, width = entry["input"]
    return ("parameters",), (float(entry["parameters"]), float(height * width))


def pareto_front(entries: Sequence[Entry], indices: Sequence[int] | None = None) -> list[int]:
    """Indices of the entries that nothing they compare with beats in time and score, the fastest first.

    Args:
        indices: Of those that take part; None: all. Entries without a latency never do.
    """
    return sorted(_near(entries, indices, 0.0), key=lambda i: p50(entries[i]) or 0.0)


def finalists(entries: Sequence[Entry], max_ms: float | None) -> list[int]:
    """Indices of the entries that are measured once more: on the front, or not slower than it by more than `NEAR`, or
    that near to the limit, on either side of it.
    """
    chosen = set(_near(entries, None, NEAR))
    if max_ms is not None:
        times = {i: p50(entry) for i, entry in enumerate(entries)}
        chosen |= {i for i, time in times.items() if time is not None and abs(time - max_ms) <= NEAR * max_ms}
    return sorted(chosen)


def _near(entries: Sequence[Entry], indices: Sequence[int] | None, margin: float) -> list[int]:
    """Those that would be on the front if they took less time by the margin, a share."""
    wanted = range(len(entries)) if indices is None else indices
    points = {i: (time, *score(entries[i])) for i in wanted if (time := p50(entries[i])) is not None}
    return [i for i in points if not any(_beats(other, points[i], margin) for other in points.values())]


def _beats(one: _Point, other: _Point, margin: float) -> bool:
    """Whether `one` is nowhere worse than `other` and better somewhere, after `other` was granted the margin."""
    (time, group, scores), (slower, other_group, others) = one, other
    granted = slower * (1 - margin)
    if (
        group != other_group
        or time > granted
        or any(mine < theirs for mine, theirs in zip(scores, others, strict=True))
    ):
        return False
    return time < granted or scores != others
