"""What a comparison came to, in a sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgemim.runtime.compare.bootstrap import MARGIN


def verdict(pairs: Sequence[Mapping[str, Any]]) -> str:
    """One clause per pair, lower case, without a full stop."""
    return "; ".join(map(_clause, pairs))


def _clause(pair: Mapping[str, Any]) -> str:
    a, b = pair["a"], pair["b"]
    low, high = pair["low"], pair["high"]
    interval = f"{pair['level']:.1%} interval of the ratio {low:.4f} to {high:.4f}"
    if pair["difference"] == "slower":
        return f"{a} takes {pair['ratio'] - 1:.1%} more time than {b} ({interval})"
    if pair["difference"] == "faster":
        return f"{a} takes {1 - pair['ratio']:.1%} less time than {b} ({interval})"
    if pair["difference"] == "none":
        return f"{a} and {b} do not differ by more than {MARGIN - 1:.0%} ({interval})"
    return f"whether {a} and {b} differ by more than {MARGIN - 1:.0%} is unclear ({interval}): measure for longer"
