"""Student's quantile: how many standard errors an interval from few values needs.

Source: Abramowitz and Stegun, "Handbook of Mathematical Functions", 1964, 26.7.1 (by the incomplete beta function);
    NIST Digital Library of Mathematical Functions, 8.17.22 (its continued fraction), evaluated by Lentz's method
"""

from __future__ import annotations

import math

_TINY = 1e-300
_PRECISION = 1e-15
_MOST_TERMS = 10_000
_HALVINGS = 200


def student_quantile(tail: float, freedom: float) -> float:
    """The value that Student's variable exceeds with probability `tail`; right to nine digits or more.

    Args:
        tail: In (0, 0.5).
        freedom: Degrees of freedom, above 0, whole or not.
    """
    assert 0 < tail < 0.5
    assert freedom > 0
    low, high = 0.0, 1.0
    while student_tail(high, freedom) > tail:
        low, high = high, 2 * high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        low, high = (middle, high) if student_tail(middle, freedom) > tail else (low, middle)
    return (low + high) / 2


def student_tail(value: float, freedom: float) -> float:
    """Probability that Student's variable exceeds a value of 0 or more."""
    square = value * value
    # Both arguments, each computed where it is not a difference of nearly equal numbers.
    return 0.5 * _incomplete_beta(freedom / 2, 0.5, freedom / (freedom + square), square / (freedom + square))


def _incomplete_beta(a: float, b: float, x: float, rest: float) -> float:
    """Regularised, I_x(a, b); `rest` is 1 - x."""
    if x <= 0 or rest <= 0:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(b, a, rest, x)
    front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(rest)
    return math.exp(front) * _fraction(a, b, x) / a


def _fraction(a: float, b: float, x: float) -> float:
    """The continued fraction of the incomplete beta function, from the front, by Lentz's method."""
    above, below = 1.0, 1 / _away_from_0(1 - (a + b) * x / (a + 1))
    found = below
    for m in range(1, _MOST_TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            below = 1 / _away_from_0(1 + term * below)
            above = _away_from_0(1 + term / above)
            found *= above * below
        if abs(above * below - 1) < _PRECISION:
            break
    return found


def _away_from_0(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
