"""What the model itself looks at is hidden to be predicted, and of the rest some is thrown away altogether.

Source: Liu et al., "Good helper is around you: Attention-driven Masked Image Modeling", AAAI 2023, arXiv:2211.15362,
    section 3.
Needs: the student's own attention, from a method that remembers it (amt)
Differs: all patches are ordered at once by an exponential race, which gives the same distribution as drawing them one
    after the other; weights are raised by a millionth of their mean, so that patches of weight 0 come last, in random
    order. While no attention is given, patches are hidden uniformly and none is thrown away, as in the original before
    its first look; there the ratio is a setting of the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import torch

from edgemim.errors import ConfigError
from edgemim.masking import MASKINGS
from edgemim.masking._base import MaskContext, MaskingStrategy
from edgemim.masking._counts import check_ratio
from edgemim.masking._race import race
from edgemim.models.mask_plan import DROPPED, MASKED, VISIBLE, MaskPlan


@dataclass(frozen=True, kw_only=True)
class ThrowingMasking(MaskingStrategy):
    """Draw all patches with probabilities proportional to the attention: the first are masked, the next thrown away.

    Where the method gives no attention yet, a share `plain_ratio` is masked, each patch equally likely.

    Args:
        mask_ratio: Share of patches masked, in (0, 1); rounded down: 88 of 196.
        throw_ratio: Share of patches neither seen nor predicted; rounded down together with the masked ones: 78 of 196.
        cell: Side in pixels of squares that are masked or thrown away as a whole, weighed by the sum over their
            patches; both counts are rounded up then: 22 and 13 of 49 for ratios of 0.44 and 0.26. 0: single patches.
        plain_ratio: Share masked while there is no attention yet, in (0, 1); rounded up: 147 of 196.

    Raises:
        ConfigError: A setting is out of range, the cells do not fit, or the ratios mask or leave nothing.
    """

    needs: ClassVar[tuple[str, ...]] = ("own_attention",)

    mask_ratio: float = 0.45
    throw_ratio: float = 0.40
    cell: int = 0
    plain_ratio: float = 0.75

    def __post_init__(self) -> None:
        check_ratio(self.mask_ratio)
        if not 0 <= self.throw_ratio < 1 - self.mask_ratio:
            raise ConfigError(
                f"masking.throw_ratio must not be negative, and with mask_ratio {self.mask_ratio} less than 1; "
                f"got {self.throw_ratio}"
            )
        if not 0 < self.plain_ratio < 1:
            raise ConfigError(f"masking.plain_ratio must lie in (0, 1); got {self.plain_ratio}")
        if self.cell < 0:
            raise ConfigError(f"masking.cell must not be negative; got {self.cell}")

    def sample(
        self, batch: int, grid: tuple[int, int], rng: torch.Generator, context: MaskContext | None = None
    ) -> MaskPlan:
        context = context or MaskContext()
        height, width = self._patches_of_cell(grid, context.patch_size)
        rows, columns = grid[0] // height, grid[1] // width
        plain, masked, hidden = self._counts(rows * columns)
        attention = context.signals.get("own_attention")
        if attention is None:
            masked = hidden = plain
            order = torch.rand(batch, rows * columns, generator=rng, device=rng.device).argsort(dim=1)
        else:
            weights = attention.detach().float().clamp(min=0).view(batch, rows, height, columns, width)
            order = race(weights.sum(dim=(2, 4)).flatten(1), rng)
        cells = torch.full((batch, rows * columns), VISIBLE, dtype=torch.int8, device=rng.device)
        cells.scatter_(1, order[:, :hidden], DROPPED).scatter_(1, order[:, :masked], MASKED)
        role = cells.view(batch, rows, columns).repeat_interleave(height, dim=1).repeat_interleave(width, dim=2)
        each = height * width
        counts = (rows * columns - hidden) * each, masked * each, (hidden - masked) * each
        return MaskPlan(role.flatten(1), grid, counts)

    def _counts(self, total: int) -> tuple[int, int, int]:
        """How many of `total` are masked without attention; masked with it; and masked or thrown away with it."""
        rounded: Callable[[Fraction], int] = math.ceil if self.cell else math.floor
        mask, throw, alone = (Fraction(str(r)) for r in (self.mask_ratio, self.throw_ratio, self.plain_ratio))
        plain, masked, hidden = math.ceil(total * alone), rounded(total * mask), rounded(total * (mask + throw))
        if not (0 < plain < total and masked > 0 and hidden < total):
            raise ConfigError(
                f"of {total} {'cells' if self.cell else 'patches'} masking.mask_ratio {self.mask_ratio} masks {masked} "
                f"and throw_ratio {self.throw_ratio} leaves {total - hidden} visible, plain_ratio {self.plain_ratio} "
                f"leaves {total - plain}; choose ratios that mask some and show some"
            )
        return plain, masked, hidden

    def _patches_of_cell(self, grid: tuple[int, int], patch_size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of a cell in patches."""
        if not self.cell:
            return 1, 1
        height, width = (self.cell // side for side in patch_size)
        whole = (height * patch_size[0], width * patch_size[1]) == (self.cell, self.cell)
        if not whole or grid[0] % height or grid[1] % width:
            size = grid[0] * patch_size[0], grid[1] * patch_size[1]
            raise ConfigError(
                f"masking.cell {self.cell} must be a whole number of patches of {patch_size[0]}x{patch_size[1]} pixels "
                f"and divide images of {size[0]}x{size[1]}; set another one, or 0 for single patches"
            )
        return height, width


MASKINGS.add("throwing", ThrowingMasking)
