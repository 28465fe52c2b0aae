"""Rectangular blocks of random place, size and shape: the mask of BEiT, MaskDistill and CAE.

Source: Bao et al., "BEiT: BERT Pre-Training of Image Transformers", ICLR 2022, arXiv:2106.08254, algorithm 1;
    ratio 0.4 as Peng et al., "A Unified View of Masked Image Modeling", TMLR 2023, arXiv:2210.10615.
Needs: nothing
Differs: on a grid of fewer than 128 patches the smallest area of a block is an eighth of the grid, so that small
    grids get more than one block too; after 128 tries, which only the highest ratios could need, the rest is filled
    with single patches; nothing has to be removed at the end, since no block goes beyond the ratio.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from edgemim.errors import ConfigError
from edgemim.masking import MASKINGS
from edgemim.masking._base import MaskContext, MaskingStrategy
from edgemim.masking._counts import check_ratio, hidden_count
from edgemim.models.mask_plan import MaskPlan

_TRIES = 128
_TRIES_PER_BLOCK = 10
_FLATTEST = 0.3
_SMALLEST_SHARE = 8


@dataclass(frozen=True, kw_only=True)
class BlockMasking(MaskingStrategy):
    """Hide rectangles until a fixed share of the patches is hidden, then single patches up to the exact count.

    A block is shorter than the grid in both directions, and at most 3.3 times as long as wide or wide as long. Of
    each image, 128 x 4 numbers in [0, 1) decide its blocks (area, shape, row and column of each try), and one
    number for each patch decides which single ones are hidden too, those with the largest.

    Args:
        mask_ratio: Share of patches hidden, in (0, 1); floor(L * mask_ratio) are hidden: 78 of 196, or 98 at 0.5.
        min_patches: Smallest area that is drawn for a block, while that many are left to hide; an eighth of the
            grid where that is less.

    Raises:
        ConfigError: A setting is out of range, or the ratio hides all patches of a grid or none.
    """

    mask_ratio: float = 0.4
    min_patches: int = 16

    def __post_init__(self) -> None:
        check_ratio(self.mask_ratio)
        if self.min_patches < 1:
            raise ConfigError(f"masking.min_patches must be at least 1; got {self.min_patches}")

    def sample(
        self, batch: int, grid: tuple[int, int], rng: torch.Generator, context: MaskContext | None = None
    ) -> MaskPlan:
        patches = grid[0] * grid[1]
        count = hidden_count(patches, self.mask_ratio, rounded=math.floor)
        least = max(1, min(self.min_patches, patches // _SMALLEST_SHARE))
        tries = torch.rand(batch, _TRIES, 4, generator=rng, device=rng.device).cpu().numpy()
        single = torch.rand(batch, patches, generator=rng, device=rng.device)
        hidden = np.zeros((batch, *grid), dtype=np.float32)
        for image, numbers in zip(hidden, tries, strict=True):
            _place_blocks(image, count, least, numbers.tolist())
        # Patches of blocks come after all others, those after each other by their number: the last `count` are hidden.
        order = (single + torch.from_numpy(hidden).flatten(1).to(rng.device)).argsort(dim=1)
        return MaskPlan.from_keep_ids(order[:, : patches - count], grid)


def _place_blocks(hidden: npt.NDArray[np.float32], left: int, least: int, numbers: Iterable[Sequence[float]]) -> None:
    """Set blocks of `hidden`, [H, W], to 1 until `left` more are 1, or no further block fits."""
    height, width = hidden.shape
    failures = 0
    for area_at, shape_at, row_at, column_at in numbers:
        if left == 0 or failures == _TRIES_PER_BLOCK:
            return
        failures += 1
        area = least + area_at * (left - least)  # between the two also when less than `least` is left
        aspect = _FLATTEST ** (1 - 2 * shape_at)
        rows, columns = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if not (0 < rows < height and 0 < columns < width):
            continue
        top, start = int(row_at * (height - rows + 1)), int(column_at * (width - columns + 1))
        block = hidden[top : top + rows, start : start + columns]
        new = rows * columns - int(np.count_nonzero(block))
        if 0 < new <= left:
            block[:] = 1
            left -= new
            failures = 0


MASKINGS.add("block", BlockMasking)
