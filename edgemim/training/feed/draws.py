"""The random numbers of crops: a pure function of (seed, view, image index), for a whole batch at once.

A generator for each image would take longer to seed than a small image takes to crop. So the numbers are the outputs of
a hash of (seed, view, index, count): any of them can be had without those before it.

Sources: the hash is the finaliser of SplitMix64 (Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators",
OOPSLA 2014, section 4); the boxes are those of Szegedy et al., "Going Deeper with Convolutions", 2014, arXiv:1409.4842.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgemim.training.feed.order import Place
from edgemim.training.settings.augmentation import AugmentationSettings

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Bits = npt.NDArray[np.uint64]
Shapes = Sequence[tuple[int, ...]] | npt.NDArray[np.integer[Any]]

_ATTEMPTS = 10
_JITTERED = 3
_NUMBERS = 2 * _ATTEMPTS + 3 + _JITTERED

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


@dataclass(frozen=True, kw_only=True)
class Crops:
    """What was drawn for B images.

    Attributes:
        boxes: int64 [B, 4]: top, left, height and width of each crop, in pixels of its image.
        mirrored: bool [B]: turned left to right.
        factors: float32 [B, 3]: on brightness, contrast and saturation.
    """

    boxes: Tensor
    mirrored: Tensor
    factors: Tensor

    def placed(self, shapes: Shapes) -> Tensor:
        """float32 [B, 5]: top, left, height, width as shares of images of these heights and widths; 1 if mirrored."""
        sides = torch.from_numpy(np.array(shapes, dtype=np.int64))
        shares = self.boxes / sides.repeat(1, 2)
        return torch.cat([shares, self.mirrored[:, None]], dim=1).float()


def draw_crops(
    settings: AugmentationSettings,
    size: tuple[int, int],
    seed: int,
    places: Sequence[Place],
    shapes: Shapes,
    *,
    which: int = 0,
) -> Crops:
    """Box, flip and jitter of each place.

    A box has a random area and a log-uniform aspect; it is the largest one of the wanted aspect, in the middle, where
    ten attempts give none that fits into the image.

    Args:
        settings: Areas, aspect ratios, flip, strength of the jitter, number of views.
        size: Height and width that the crops will be resized to.
        seed: Of the run.
        places: Epoch and index of B images.
        shapes: Height and width of each, [B, 2].
        which: Number of the crop, of an image that shows several in one step.
    """
    views = np.array([settings.view(epoch) for epoch, _ in places])
    indices = np.array([index for _, index in places])
    numbers = uniform_numbers(seed, views, indices, _NUMBERS, which=which)
    boxes = _boxes(settings, size[1] / size[0], np.array(shapes, dtype=np.int64), numbers)
    mirrored = numbers[:, 2 * _ATTEMPTS + 2] < (0.5 if settings.flip else 0)
    factors = 1 + settings.colour_jitter * (2 * numbers[:, -_JITTERED:] - 1)
    return Crops(
        boxes=torch.from_numpy(boxes),
        mirrored=torch.from_numpy(mirrored),
        factors=torch.from_numpy(factors.astype(np.float32)),
    )


def uniform_numbers(seed: int, views: Integers, indices: Integers, count: int, *, which: int = 0) -> Floats:
    """`count` numbers for each pair of a view and an index, uniform in [0, 1), float64 [B, count]."""
    key = np.random.SeedSequence([seed, which] if which else seed).generate_state(1, np.uint64)
    state = _mixed(_mixed(key ^ views.astype(np.uint64)) ^ indices.astype(np.uint64))
    counters = np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN
    bits = _mixed(state[:, None] + counters)
    numbers: Floats = (bits >> np.uint64(11)) * 2.0**-53
    return numbers


def _mixed(state: Bits) -> Bits:
    """Another number for each number, every bit of which depends on every bit."""
    state = state + _GOLDEN  # arrays wrap around at 2 ** 64
    state = (state ^ (state >> np.uint64(30))) * _FIRST
    state = (state ^ (state >> np.uint64(27))) * _SECOND
    mixed: Bits = state ^ (state >> np.uint64(31))
    return mixed


def _boxes(settings: AugmentationSettings, wanted: float, shapes: Integers, numbers: Floats) -> Integers:
    """Top, left, height and width, int64 [B, 4], of crops whose aspect lies around `wanted`."""
    tall, wide = shapes[:, 0], shapes[:, 1]
    areas, aspects = numbers[:, :_ATTEMPTS], numbers[:, _ATTEMPTS : 2 * _ATTEMPTS]
    area = (tall * wide)[:, None] * (settings.min_scale + (settings.max_scale - settings.min_scale) * areas)
    aspect = wanted * np.exp(math.log(settings.max_aspect) * (2 * aspects - 1))
    widths, heights = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
    fits = (widths >= 1) & (widths <= wide[:, None]) & (heights >= 1) & (heights <= tall[:, None])
    first = fits.argmax(axis=1)[:, None]
    hit = np.asarray(fits.any(axis=1) & (not settings.crops_whole))
    height = np.where(hit, np.take_along_axis(heights, first, 1)[:, 0], _clipped(wide / wanted, tall))
    width = np.where(hit, np.take_along_axis(widths, first, 1)[:, 0], _clipped(tall * wanted, wide))
    free = np.stack([tall - height, wide - width], axis=1)
    anywhere = np.floor(numbers[:, 2 * _ATTEMPTS : 2 * _ATTEMPTS + 2] * (free + 1))
    corner = np.where(hit[:, None], anywhere, free // 2)
    return np.concatenate([corner, height[:, None], width[:, None]], axis=1).astype(np.int64)


def _clipped(sides: npt.NDArray[np.floating[Any]], most: Integers) -> Floats:
    clipped: Floats = np.clip(np.rint(sides), 1, most)
    return clipped
