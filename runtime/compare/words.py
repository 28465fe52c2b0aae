"""What a comparison came to, in a sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgemim.runtime.compare.bootstrap import MARGIN

# Above, percents are hard to read.
_MANIFOLD = 2.0


# By mode: what measures for longer than that.
_LONGER = {"quick": "--mode standard", "standard": "--mode mlperf"}
_BY_HAND = "--seconds"


def verdict(pairs: Sequence[Mapping[str, Any]], mode: str) -> str:
    """One clause per pair, lower case, without a full stop.

    Args:
        pairs: As in the report.
        mode: The pairs were measured in: who is to measure for longer is told how.
    """
    return "; ".join(_clause(pair, mode) for pair in pairs)


def _clause(pair: Mapping[str, Any], mode: str) -> str:
    a, b = pair["a"], pair["b"]
    low, high = pair["low"], pair["high"]
    interval = f"{pair['level']:.1%} interval of the ratio {low:.4f} to {high:.4f}"
    if pair["difference"] in ("slower", "faster"):
        return f"{a} takes {_amount(pair['ratio'])} {b} ({interval})"
    if pair["difference"] == "none":
        return f"{a} and {b} do not differ by more than {MARGIN - 1:.0%} ({interval})"
    cure = f"measure on a quieter machine, or for longer ({_LONGER.get(mode, _BY_HAND)})"
    return f"whether {a} and {b} differ by more than {MARGIN - 1:.0%} is unclear ({interval}): {cure}"


def _amount(ratio: float) -> str:
    if ratio > _MANIFOLD:
        return f"{ratio:.2f} times as long as"
    return f"{ratio - 1:.1%} more time than" if ratio > 1 else f"{1 - ratio:.1%} less time than"
