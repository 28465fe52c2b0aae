"""Uniform random masking: every patch equally likely, an exact share hidden.

Source: He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022, arXiv:2111.06377, section 3.
Needs: nothing
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from edgemim.masking import MASKINGS
from edgemim.masking._base import MaskContext, MaskingStrategy
from edgemim.masking._counts import check_ratio, hidden_count
from edgemim.models.mask_plan import MaskPlan


@dataclass(frozen=True, kw_only=True)
class RandomMasking(MaskingStrategy):
    """Hide a fixed share of the patches.

    Args:
        mask_ratio: Share of patches hidden, in (0, 1); floor(L * (1 - mask_ratio)) stay visible.

    Raises:
        ConfigError: The ratio is out of range, or hides all patches of a grid or none.
    """

    mask_ratio: float = 0.75

    def __post_init__(self) -> None:
        check_ratio(self.mask_ratio)

    def sample(
        self, batch: int, grid: tuple[int, int], rng: torch.Generator, context: MaskContext | None = None
    ) -> MaskPlan:
        patches = grid[0] * grid[1]
        visible = patches - hidden_count(patches, self.mask_ratio)
        noise = torch.rand(batch, patches, generator=rng, device=rng.device)
        return MaskPlan.from_keep_ids(noise.argsort(dim=1)[:, :visible], grid)


MASKINGS.add("random", RandomMasking)
