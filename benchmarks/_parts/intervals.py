"""Means over seeds, their t-intervals, paired differences, and what may be claimed from them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
# A claim needs a variance worth the name.
FEWEST_SEEDS = 3

Scores = Mapping[int, float]  # seed to score


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % t-interval of the mean; None for fewer than two values."""
    if len(values) < 2:
        return None
    half = stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    mean = float(np.mean(values))
    return mean - float(half), mean + float(half)


def described(scores: Scores) -> dict[str, Any]:
    """Mean, interval and the values themselves, by seed."""
    values = [scores[seed] for seed in sorted(scores)]
    return {
        "mean": _rounded(float(np.mean(values))),
        "interval": _pair(interval(values)),
        "seeds": sorted(scores),
        "values": [_rounded(v) for v in values],
    }


def difference(first: Scores, second: Scores) -> dict[str, Any] | None:
    """The mean of `first` minus `second`, seed by seed, and its interval; None without a seed in common.

    A seed fixes initial weights, order, crops and masks, so that the two are compared under the same ones.
    """
    shared = sorted(set(first) & set(second))
    if not shared:
        return None
    values = [first[seed] - second[seed] for seed in shared]
    return {"difference": _rounded(float(np.mean(values))), "interval": _pair(interval(values)), "seeds": shared}


def claim(better: str, worse: str, scores: Mapping[str, Scores]) -> dict[str, Any]:
    """Whether `better > worse` is shown: the paired interval lies above 0; refuted: it lies below.

    Nothing is shown or refuted by fewer than three seeds.
    """
    result: dict[str, Any] = {"claim": f"{better} > {worse}", "difference": None, "interval": None, "seeds": []}
    result |= difference(scores.get(better, {}), scores.get(worse, {})) or {}
    enough = len(result["seeds"]) >= FEWEST_SEEDS
    low, high = result["interval"] if enough else (-math.inf, math.inf)
    return result | {"shown": low > 0, "refuted": high < 0}


def _pair(values: tuple[float, float] | None) -> list[float] | None:
    return None if values is None else [_rounded(v) for v in values]


def _rounded(value: float) -> float:
    return round(value, 6)
