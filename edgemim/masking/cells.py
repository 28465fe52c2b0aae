"""Random cells, larger than patches: the mask of SimMIM, the same for every backbone at one image size.

Source: Xie et al., "SimMIM: A Simple Framework for Masked Image Modeling", CVPR 2022, arXiv:2111.09886,
    section 3.2.
Needs: nothing
Differs: drawn for the whole batch on the device of the generator; the original draws in the data loader.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from edgemim.errors import ConfigError
from edgemim.masking import MASKINGS
from edgemim.masking._base import MaskContext, MaskingStrategy
from edgemim.masking._counts import check_ratio, hidden_count
from edgemim.models.mask_plan import MASKED, VISIBLE, MaskPlan


@dataclass(frozen=True, kw_only=True)
class CellMasking(MaskingStrategy):
    """Hide a fixed share of square cells, each equally likely, with all of their patches.

    Args:
        mask_ratio: Share of cells hidden, in (0, 1); rounded up: 30 of 49, 22 of 36.
        cell: Side of a cell in pixels: a multiple of the patch size that divides both sides of the image.

    Raises:
        ConfigError: The ratio is out of range or hides all cells or none, or the cells do not fit.
    """

    mask_ratio: float = 0.6
    cell: int = 32

    def __post_init__(self) -> None:
        check_ratio(self.mask_ratio)
        if self.cell < 1:
            raise ConfigError(f"masking.cell must be at least 1 pixel; got {self.cell}")

    def sample(
        self, batch: int, grid: tuple[int, int], rng: torch.Generator, context: MaskContext | None = None
    ) -> MaskPlan:
        patch_size = (context or MaskContext()).patch_size
        self._check_fit(grid, patch_size)
        height, width = (self.cell // side for side in patch_size)  # of a cell, in patches
        rows, columns = grid[0] // height, grid[1] // width
        hidden = hidden_count(rows * columns, self.mask_ratio, what="cells")
        ids = torch.rand(batch, rows * columns, generator=rng, device=rng.device).argsort(dim=1)[:, :hidden]
        cells = torch.full((batch, rows * columns), VISIBLE, dtype=torch.int8, device=rng.device)
        cells.scatter_(1, ids, MASKED)
        role = cells.view(batch, rows, columns).repeat_interleave(height, dim=1).repeat_interleave(width, dim=2)
        masked = hidden * height * width
        return MaskPlan(role.flatten(1), grid, (grid[0] * grid[1] - masked, masked, 0))

    def _check_fit(self, grid: tuple[int, int], patch_size: tuple[int, int]) -> None:
        size = grid[0] * patch_size[0], grid[1] * patch_size[1]
        if self.cell % patch_size[0] or self.cell % patch_size[1]:
            wrong = f"masking.cell {self.cell} is no whole number of patches of {patch_size[0]}x{patch_size[1]} pixels"
        elif size[0] % self.cell or size[1] % self.cell:
            wrong = f"images of {size[0]}x{size[1]} pixels are no whole number of masking.cell {self.cell}"
        else:
            return
        step, longest = math.lcm(*patch_size), math.gcd(*size)
        fitting = [side for side in range(step, longest + 1, step) if longest % side == 0 and side < max(size)]
        raise ConfigError(f"{wrong}; cells that fit: {', '.join(map(str, fitting)) or 'none'}")


MASKINGS.add("cells", CellMasking)
