"""Uniform random masking: every patch equally likely, an exact share hidden.

Source: He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022, arXiv:2111.06377, section 3.
Needs: nothing
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from edgemim.errors import ConfigError
from edgemim.masking import MASKINGS
from edgemim.masking._base import MaskContext, MaskingStrategy
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
        if not 0 < self.mask_ratio < 1:
            raise ConfigError(f"masking.mask_ratio must lie in (0, 1); got {self.mask_ratio}")

    def sample(
        self, batch: int, grid: tuple[int, int], rng: torch.Generator, context: MaskContext | None = None
    ) -> MaskPlan:
        patches = grid[0] * grid[1]
        visible = int(patches * (1 - self.mask_ratio))
        if not 0 < visible < patches:
            raise ConfigError(
                f"masking.mask_ratio {self.mask_ratio} leaves {visible} of {patches} patches visible; "
                "choose a ratio that hides some and shows some"
            )
        noise = torch.rand(batch, patches, generator=rng, device=rng.device)
        return MaskPlan.from_keep_ids(noise.argsort(dim=1)[:, :visible], grid)


MASKINGS.add("random", RandomMasking)
