"""Ratios of edgemim's medians to those of a vendor's own tool, with an interval, measured until it is narrow enough."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from edgemim.runtime.compare.bootstrap import RatioInterval, ratio_interval
from edgemim.runtime.compare.interleave import Open, Recorded, interleave, turns_for
from edgemim.runtime.latency.protocol import LatencyProtocol

# Milliseconds of the median run, of edgemim and of the vendor's tool.
Round = Callable[[int], tuple[float, float]]

# Rounds after which the interval is looked at; at most so often, since every look may be wrong.
LOOKS = (16, 32, 64)
_SEED = 0


def in_turns(ours: Open, theirs: Open, protocol: LatencyProtocol, limit: float) -> dict[str, Any]:
    """Two calls in this process, in short turns and opened anew as `edgemim compare` does it."""

    def found(recorded: Mapping[str, Recorded]) -> RatioInterval:
        ours, theirs = recorded["ours"], recorded["theirs"]
        return ratio_interval(ours.round_medians(), theirs.round_medians(), ours.opening_of_round())

    recorded = interleave(
        {"ours": ours, "theirs": theirs},
        turns_for(protocol),
        protocol,
        rng=np.random.default_rng(_SEED),
        decided=lambda recorded: is_decided(found(recorded), limit),
    )
    medians = [float(np.median(recorded[name].nanoseconds)) / 1e6 for name in ("ours", "theirs")]
    openings = recorded["ours"].openings[-1] + 1
    return row(found(recorded), medians, limit) | {"openings": openings, "runs": len(recorded["ours"].nanoseconds)}


def in_rounds(once: Round, limit: float, say: Callable[[str], None], looks: Sequence[int] = LOOKS) -> dict[str, Any]:
    """One that starts a process of its own each time: a round is one run of the tool, and one of ours beside it.

    Args:
        once: Does the round of a number; an odd one has the other order.
        limit: Largest difference from 1.
        say: Called with a line for people.
        looks: Numbers of rounds after which it may end.
    """
    medians: list[tuple[float, float]] = []
    for number in range(looks[-1]):
        medians.append(once(number))
        own, other = medians[-1]
        say(f"round {number + 1}: {own:.3f} ms beside {other:.3f}, {own / other:.4f}")
        if len(medians) in looks and is_decided(_of_rounds(medians), limit):
            break
    values = np.median(np.array(medians), axis=0).tolist()
    rounds = [{"edgemim_ms": round(own, 4), "vendor_ms": round(other, 4)} for own, other in medians]
    return row(_of_rounds(medians), values, limit) | {"rounds": rounds}


def is_decided(found: RatioInterval, limit: float) -> bool:
    """Whether the interval lies within the limit, or beyond it on one side."""
    return is_met(found, limit) or found.low > 1 + limit or found.high < 1 - limit


def is_met(found: RatioInterval, limit: float) -> bool:
    """Whether all of the interval lies within the limit either way."""
    return 1 - limit <= found.low and found.high <= 1 + limit


def row(found: RatioInterval, medians: Sequence[float], limit: float) -> dict[str, Any]:
    """What the result says about it; a ratio that is not known well enough has met nothing."""
    return {
        "edgemim_ms": round(medians[0], 4),
        "vendor_ms": round(medians[1], 4),
        "ratio": round(found.ratio, 5),
        "low": round(found.low, 5),
        "high": round(found.high, 5),
        "level": found.level,
        "n": found.n,
        "blocks": round(found.blocks, 2),
        "met": is_met(found, limit),
        "decided": is_decided(found, limit),
    }


def median_interval(values: Sequence[float], level: float) -> tuple[float, float]:
    """Interval of the median by the sign test: two of the values themselves; the outermost where they are too few.

    Source: Conover, "Practical Nonparametric Statistics", 3rd edition, 1999, section 3.2
    """
    ordered, n = sorted(values), len(values)
    below, place = 0.0, 0
    # Binomial(n, 1/2): how likely at most `place` values lie below the median.
    while place < (n - 1) // 2:
        below += math.comb(n, place) / 2**n
        if 2 * below > 1 - level:
            break
        place += 1
    place = max(0, place - 1)
    return ordered[place], ordered[n - 1 - place]


def _of_rounds(medians: Sequence[tuple[float, float]]) -> RatioInterval:
    ours, theirs = np.array(medians).T
    return ratio_interval(ours, theirs, np.arange(len(medians)))
