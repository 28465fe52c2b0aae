"""How much a choice of ranges cuts off."""

from __future__ import annotations

from collections.abc import Mapping

from edgemim.quantize.statistics.observed import Observed

# Clipping that minimises the error of bell-shaped values at 8 bits cuts off a ten-thousandth of them or less; cutting
# a thousandth off a softmax was seen to cost two points of agreement.
HIGH_SATURATION = 5e-4
# Beyond a threshold by no more than half a step of int8, a value is rounded to the last level, not cut off.
_HALF_STEP = 1 / 254


def saturation_notes(statistics: Mapping[str, Observed], thresholds: Mapping[str, float]) -> tuple[str, ...]:
    """One sentence on the tensor that is clipped most, if that is much; else nothing.

    Args:
        statistics: By key; every key of `thresholds` with a histogram, unless nothing of it is clipped.
        thresholds: The largest magnitude that each tensor's range holds.
    """
    shares = {key: statistics[key].share_above(limit * (1 + _HALF_STEP)) for key, limit in thresholds.items()}
    high = [key for key, share in shares.items() if share > HIGH_SATURATION]
    if not high:
        return ()
    worst = max(high, key=shares.__getitem__)
    others = f" ({len(high)} of {len(shares)} tensors are above {HIGH_SATURATION:.2%})" if len(high) > 1 else ""
    return (
        f"saturation is high: {shares[worst]:.2%} of the values of {worst} lie beyond their range{others}; "
        "choose wider ranges, or leave it in float",
    )
