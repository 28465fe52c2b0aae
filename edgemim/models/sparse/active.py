"""Which places of a feature map, whatever its resolution, belong to visible cells."""

from __future__ import annotations

import torch
from torch import Tensor

from edgemim.models.mask_plan import VISIBLE, MaskPlan, gather_tokens


class MisalignedError(ValueError):
    """The sides of a map are no whole multiples of the cells, so its places belong to no one cell."""


class ActivePlaces:
    """A mask plan on maps [B, C, H, W] of any resolution; each of its cells is H / rows x W / columns places.

    Args:
        plan: Its grid are the cells; what is not VISIBLE is hidden.
    """

    def __init__(self, plan: MaskPlan) -> None:
        self.grid = plan.grid
        self._ids = plan.keep_ids
        self._cells = (plan.role != VISIBLE).view(-1, 1, *plan.grid)
        self._hidden: dict[tuple[int, int], Tensor] = {}

    def hidden(self, height: int, width: int) -> Tensor:
        """bool [B, 1, height, width]: true at the places of hidden cells.

        Raises:
            MisalignedError: The sides are no multiples of the cells.
        """
        if (height, width) not in self._hidden:
            down, across = self._cell(height, width)
            self._hidden[height, width] = self._cells.repeat_interleave(down, dim=2).repeat_interleave(across, dim=3)
        return self._hidden[height, width]

    def clear(self, maps: Tensor) -> Tensor:
        """Maps [B, C, H, W] with zeros at the places of hidden cells."""
        return maps.masked_fill(self.hidden(maps.shape[2], maps.shape[3]), 0)

    def take(self, maps: Tensor) -> Tensor:
        """[B, K, C, h, w]: the K visible cells of maps [B, C, H, W], each of h x w places."""
        batch, channels, height, width = maps.shape
        (rows, columns), (down, across) = self.grid, self._cell(height, width)
        cells = maps.reshape(batch, channels, rows, down, columns, across).permute(0, 2, 4, 1, 3, 5)
        seen = gather_tokens(cells.reshape(batch, rows * columns, -1), self._ids)
        taken: Tensor = seen.unflatten(2, (channels, down, across))
        return taken

    def put(self, cells: Tensor) -> Tensor:
        """The inverse of `take`: maps [B, C, H, W], zero at the places of hidden cells."""
        batch, _, channels, down, across = cells.shape
        rows, columns = self.grid
        flat = cells.flatten(2)
        empty = torch.zeros(batch, rows * columns, flat.shape[2], dtype=flat.dtype, device=flat.device)
        whole = empty.scatter(1, self._ids.unsqueeze(-1).expand_as(flat), flat)
        maps = whole.view(batch, rows, columns, channels, down, across).permute(0, 3, 1, 4, 2, 5)
        return maps.reshape(batch, channels, rows * down, columns * across)

    def _cell(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of a cell, in places of a map of that size."""
        rows, columns = self.grid
        if height % rows or width % columns or not height or not width:
            raise MisalignedError(f"{height}x{width} places are no whole multiple of {rows}x{columns} cells")
        return height // rows, width // columns
