"""The maskings in plain Python, written from the specification: loops over patches, cells, tries and frequencies."""

from __future__ import annotations

import cmath
import math
from collections.abc import Sequence
from fractions import Fraction

Map = list[list[float]]


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


def cell_mask(size: tuple[int, int], patch_size: tuple[int, int], cell: int, hidden: set[int]) -> list[bool]:
    """Whether each patch of an image of `size` pixels lies in one of the hidden cells, by its first pixel."""
    mask = []
    for y in range(0, size[0], patch_size[0]):
        for x in range(0, size[1], patch_size[1]):
            mask.append((y // cell) * (size[1] // cell) + x // cell in hidden)
    return mask


def block_mask(
    grid: tuple[int, int], count: int, least: int, tries: Sequence[Sequence[float]], single: Sequence[float]
) -> set[int]:
    """`count` hidden patches: rectangles, ten tries for each, and then the patches with the largest `single`."""
    height, width = grid
    hidden: set[int] = set()
    numbers = iter(tries)
    placed = True
    while placed and len(hidden) < count:
        placed = False
        for _ in range(10):
            area_u, aspect_u, top_u, left_u = next(numbers)
            budget = count - len(hidden)
            area = least * (1 - area_u) + budget * area_u
            aspect = math.exp(math.log(0.3) + aspect_u * (math.log(1 / 0.3) - math.log(0.3)))
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if h >= height or w >= width:
                continue
            top, left = math.floor(top_u * (height - h + 1)), math.floor(left_u * (width - w + 1))
            block = {y * width + x for y in range(top, top + h) for x in range(left, left + w)}
            if 1 <= len(block - hidden) <= budget:
                hidden |= block
                placed = True
                break
    for patch in reversed(shuffle(single)):
        if len(hidden) < count:
            hidden.add(patch)
    return hidden


def fourier(values: Sequence[complex], sign: int) -> list[complex]:
    """sum over n of values[n] * exp(sign * 2 pi i k n / N), for each k."""
    size = len(values)
    turns = [cmath.exp(sign * 2j * cmath.pi * k / size) for k in range(size)]
    return [sum(value * turns[k * n % size] for n, value in enumerate(values)) for k in range(size)]


def fourier_2d(values: Sequence[Sequence[complex]], sign: int) -> list[list[complex]]:
    """`fourier` along the rows, then along the columns."""
    rows = [fourier(row, sign) for row in values]
    columns = [fourier(column, sign) for column in zip(*rows, strict=True)]
    return [list(row) for row in zip(*columns, strict=True)]


def frequency(k: int, size: int) -> float:
    """Cycles per patch of Fourier coefficient k, in [-1/2, 1/2]."""
    return (k if k <= size // 2 else k - size) / size


def coloured(white: Map, colour: str, narrow: float, wide: float) -> Map:
    """White noise through the filter of a colour, around a torus; widths in patches of this grid."""
    height, width = len(white), len(white[0])
    spectrum = fourier_2d(white, -1)
    for i in range(height):
        for j in range(width):
            squared = frequency(i, height) ** 2 + frequency(j, width) ** 2
            weak, strong = (math.exp(-((2 * math.pi * s) ** 2) * squared / 2) for s in (narrow, wide))
            green = weak - strong
            spectrum[i][j] *= {"red": strong, "green": green, "blue": 1 - weak, "purple": 1 - green}[colour]
    return [[value.real for value in row] for row in fourier_2d(spectrum, 1)]


def radial_power(maps: Sequence[Map], edges: Sequence[float]) -> list[float]:
    """Mean squared Fourier coefficient of the maps in each ring edges[k] < frequency <= edges[k + 1]."""
    height, width = len(maps[0]), len(maps[0][0])
    total, members = [0.0] * (len(edges) - 1), [0] * (len(edges) - 1)
    for spectrum in (fourier_2d(values, -1) for values in maps):
        for i in range(height):
            for j in range(width):
                radius = math.hypot(frequency(i, height), frequency(j, width))
                for ring in range(len(edges) - 1):
                    if edges[ring] < radius <= edges[ring + 1]:
                        total[ring] += abs(spectrum[i][j]) ** 2
                        members[ring] += 1
    return [power / count for power, count in zip(total, members, strict=True)]


def sequential_probabilities(weights: Sequence[float], draws: int) -> dict[frozenset[int], float]:
    """How likely each set of the first `draws` is, when one after the other is drawn by weight and not put back."""
    if draws == 0:
        return {frozenset(): 1.0}
    likely: dict[frozenset[int], float] = {}
    for before, probability in sequential_probabilities(weights, draws - 1).items():
        # The order within `before` has been summed over, and does not matter for what comes next.
        left = sum(weight for i, weight in enumerate(weights) if i not in before)
        for i, weight in enumerate(weights):
            if i not in before:
                after = before | {i}
                likely[after] = likely.get(after, 0.0) + probability * weight / left
    return likely
