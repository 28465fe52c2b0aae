"""Which candidate ships, and the sentence that says why, from the rows of a report alone.

A row is one entry of `report["candidates"]`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgemim.runtime.latency.summary import Ratio, ratio_of_rounds
from edgemim.runtime.outcome import any_ran
from edgemim.runtime.targets._base import PRECISIONS

Row = Mapping[str, Any]

_NOTICEABLE = 0.05


def label(row: Row) -> str:
    """`int8-nncf on openvino`."""
    return f"{row['name']} on {row['backend']}"


def choose(rows: Sequence[Row]) -> Row | None:
    """The passing row with the smallest p50, but a more exact precision where it is not clearly faster than that."""
    passing = sorted((row for row in rows if row["passed"]), key=lambda row: float(row["latency"]["p50_ms"]))
    if not passing:
        return None
    fastest = passing[0]
    exact = [row for row in sorted(passing, key=_exactness) if _exactness(row) < _exactness(fastest)]
    return next((row for row in exact if _unclear(_ratio(fastest, row))), fastest)


def verdict(rows: Sequence[Row], chosen: Row | None, processor: str) -> str:
    """One sentence, lower case, without a full stop.

    Args:
        rows: Every candidate on every backend.
        chosen: What `choose` returned.
        processor: `CPU` or `GPU`.
    """
    if not any_ran(rows):
        return _nothing_ran(rows)
    if chosen is None:
        return "nothing ships: " + "; ".join(f"{label(row)}: {_trouble(row)}" for row in rows if not _spare(row))
    ship = f"ship {label(chosen)} (p50 {chosen['latency']['p50_ms']:.3g} ms)"
    rival = _rival(rows, chosen)
    if rival is None:
        return ship
    if rival["latency"] is None:
        return f"{label(rival)} is disqualified, {_trouble(rival)}: {ship}"
    low, high = (rival, chosen) if _exactness(rival) > _exactness(chosen) else (chosen, rival)
    found = f"on this {processor}, {label(low)} is {_in_words(_ratio(low, high))} {label(high)}"
    if low is chosen:
        return f"{found}{_passes(low)}: {ship}"
    return f"{found}{'' if low['passed'] else f', and {_trouble(low)}'}: {ship}"


def ranking(rows: Sequence[Row], processor: str) -> str:
    """One sentence on speed alone, lower case, without a full stop: what is fastest, and how the next one compares."""
    if not any_ran(rows):
        return _nothing_ran(rows)
    timed = sorted((row for row in rows if row["latency"] is not None), key=lambda row: float(row["latency"]["p50_ms"]))
    broken = "; ".join(f"{label(row)}: {_trouble(row)}" for row in rows if row["disqualified"] is not None)
    fastest = timed[0]
    found = f"the fastest on this {processor} is {label(fastest)} (p50 {fastest['latency']['p50_ms']:.3g} ms)"
    if len(timed) > 1:
        found += f", {_in_words(_ratio(fastest, timed[1]))} {label(timed[1])}"
    return f"{found}; disqualified: {broken}" if broken else found


def _nothing_ran(rows: Sequence[Row]) -> str:
    told = "; ".join(f"{label(row)}: {_trouble(row)}" for row in rows if not _spare(row))
    return f"no candidate runs right here: {told}"


def _exactness(row: Row) -> int:
    """0 for fp32, more the less exact the precision is."""
    return PRECISIONS.index(row["precision"])


def _rival(rows: Sequence[Row], chosen: Row) -> Row | None:
    """What the reader asks about beside the chosen row.

    The fastest less exact one, which was expected to be faster; where there is none, the fastest more exact one;
    where none was timed, one that was disqualified.
    """
    others = [row for row in rows if row["precision"] != chosen["precision"] and not _spare(row)]
    less = [row for row in others if _exactness(row) > _exactness(chosen)]
    more = [row for row in others if _exactness(row) < _exactness(chosen)]
    for group in (less, more):
        timed = [row for row in group if row["latency"] is not None]
        if timed:
            return min(timed, key=lambda row: float(row["latency"]["p50_ms"]))
    return next((row for row in others if row["latency"] is None), None)


def _spare(row: Row) -> bool:
    """A run that only served as the reference for accuracy."""
    return bool(row["reference_only"])


def _ratio(row: Row, other: Row) -> Ratio:
    """How many times as long `row` takes as `other`, round by round."""
    return ratio_of_rounds(row["latency"]["round_p50_ms"], other["latency"]["round_p50_ms"])


def _in_words(ratio: Ratio) -> str:
    if _unclear(ratio):
        return "about as fast as"
    return f"{ratio.ratio:.1f}x slower than" if ratio.ratio > 1 else f"{1 / ratio.ratio:.1f}x faster than"


def _unclear(ratio: Ratio) -> bool:
    """Whether the difference is too small to notice, or may be none at all by its interval."""
    if ratio.low is None or ratio.high is None:
        return True
    return ratio.low <= 1 <= ratio.high or abs(ratio.ratio - 1) < _NOTICEABLE


def _passes(row: Row) -> str:
    return " and passes every gate" if row["gates"] else ""


def _trouble(row: Row) -> str:
    if row["disqualified"] is not None:
        return str(row["disqualified"])
    missed = [gate["sentence"] for gate in row["gates"] if not gate["passed"]]
    return ", ".join(missed) or "it was not measured"
