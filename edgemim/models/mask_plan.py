"""Which patches of each image are visible, masked or dropped: the one object that all parts share.

Maskings make a plan, adapters read its visible ids, predictors its restore ids, losses its mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import cast

import torch
from torch import Tensor

VISIBLE, MASKED, DROPPED = 0, 1, 2


@dataclass(frozen=True, eq=False)
class MaskPlan:
    """Roles of the patches of a batch.

    Every image has the same number of patches in each role, so that ids are rectangular.

    Args:
        role: int8 [B, L], one of VISIBLE (the student sees it), MASKED (hidden, to be predicted) and
            DROPPED (hidden, not predicted); L = grid height x grid width, in row-major order.
        grid: Height and width of the patch grid.
        counts: Patches per image in each of the three roles; counted from `role` when not given, which
            costs a synchronisation on a GPU.

    Raises:
        ValueError: L is not the grid's, or the images differ in their counts.
    """

    role: Tensor
    grid: tuple[int, int]
    counts: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        if self.role.dim() != 2 or self.role.shape[1] != self.grid[0] * self.grid[1]:
            raise ValueError(f"role must be [B, {self.grid[0] * self.grid[1]}]; got {list(self.role.shape)}")
        if self.counts is None:
            object.__setattr__(self, "counts", _count(self.role))

    @classmethod
    def from_keep_ids(cls, keep_ids: Tensor, grid: tuple[int, int]) -> MaskPlan:
        """The plan in which `keep_ids` (int64 [B, K], any order, no repeats) are visible, all others masked."""
        batch, visible = keep_ids.shape
        patches = grid[0] * grid[1]
        role = torch.full((batch, patches), MASKED, dtype=torch.int8, device=keep_ids.device)
        return cls(role.scatter_(1, keep_ids, VISIBLE), grid, (visible, patches - visible, 0))

    @classmethod
    def from_mask(cls, mask: Tensor, grid: tuple[int, int]) -> MaskPlan:
        """The plan of a mask (bool or 0/1 [B, L], true = masked)."""
        return cls(mask.to(torch.int8), grid)

    @property
    def mask(self) -> Tensor:
        """bool [B, L], true where a prediction is asked for."""
        return self.role == MASKED

    @property
    def keep_ids(self) -> Tensor:
        """int64 [B, K]: ids of the visible patches, ascending."""
        return self._order[:, : self._counts[VISIBLE]]

    @property
    def mask_ids(self) -> Tensor:
        """int64 [B, M]: ids of the masked patches, ascending."""
        visible, masked, _ = self._counts
        return self._order[:, visible : visible + masked]

    @property
    def hidden_ids(self) -> Tensor:
        """int64 [B, M + D]: ids of the masked patches, ascending, then those of the dropped ones, ascending."""
        return self._order[:, self._counts[VISIBLE] :]

    def at(self, grid: tuple[int, int]) -> MaskPlan:
        """The plan on another grid over the same image, each patch with the role of the nearest of this one.

        Raises:
            ValueError: The images then differ in their counts (a coarser grid that cuts through cells).
        """
        if grid == self.grid:
            return self
        rows, columns = (_nearest(self.grid[i], grid[i]).to(self.role.device) for i in (0, 1))
        role = self.role.view(-1, *self.grid)[:, rows[:, None], columns[None, :]].flatten(1)
        share = grid[0] * grid[1] / (self.grid[0] * self.grid[1])
        whole = all(grid[i] % self.grid[i] == 0 for i in (0, 1))
        counts = tuple(round(c * share) for c in self._counts) if whole else None
        return MaskPlan(role, grid, cast("tuple[int, int, int] | None", counts))

    @cached_property
    def restore_ids(self) -> Tensor:
        """int64 [B, L]: place of patch i in the sequence visible + masked + dropped."""
        return self._order.argsort(dim=1)

    @cached_property
    def _order(self) -> Tensor:
        return self.role.argsort(dim=1, stable=True)

    @property
    def _counts(self) -> tuple[int, int, int]:
        assert self.counts is not None
        return self.counts


def _nearest(places: int, others: int) -> Tensor:
    """For each of `others` equal parts of a line, which of `places` equal parts its centre lies in."""
    return (2 * torch.arange(others) + 1) * places // (2 * others)


def _count(role: Tensor) -> tuple[int, int, int]:
    counts = torch.stack([(role == r).sum(dim=1) for r in (VISIBLE, MASKED, DROPPED)], dim=1)
    if not bool((counts == counts[0]).all()) or int(counts[0].sum()) != role.shape[1]:
        raise ValueError(f"every image must have the same counts of the roles 0, 1 and 2; got {counts.tolist()[:4]}")
    visible, masked, dropped = (int(c) for c in counts[0])
    return visible, masked, dropped


def gather_tokens(tokens: Tensor, ids: Tensor) -> Tensor:
    """Rows `ids` (int64 [B, K]) of tokens [B, L, D], as [B, K, D]."""
    return tokens.gather(1, ids.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))
