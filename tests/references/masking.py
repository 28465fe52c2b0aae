"""Uniform random masking in plain Python, written from the specification: one number per patch, keep the smallest."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction


def visible_count(patches: int, mask_ratio: str) -> int:
    """floor(L * (1 - r)) in exact arithmetic; the ratio comes as text, so that no binary rounding enters."""
    exact = patches * (1 - Fraction(mask_ratio))
    return exact.numerator // exact.denominator


def shuffle(noise: Sequence[float]) -> list[int]:
    """Patch ids by ascending noise."""
    return [i for _, i in sorted((value, i) for i, value in enumerate(noise))]


def inverse(order: Sequence[int]) -> list[int]:
    """Where each patch went: inverse(order)[order[k]] = k."""
    places = [0] * len(order)
    for place, patch in enumerate(order):
        places[patch] = place
    return places
