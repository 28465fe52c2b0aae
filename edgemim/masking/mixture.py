"""Places shared out among the images of a group: each patch of the grid is visible in exactly one of them.

Source: Chen et al., "Mixed Autoencoder for Self-supervised Visual Representation Learning", CVPR 2023,
    arXiv:2303.17152.
Needs: nothing
Differs: inferred, since no code of the authors is public: all ways to share the places out are equally likely. In a
    last group with fewer images, as in the pictures of a run, each gets its places as if the others were there.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from edgemim.errors import ConfigError
from edgemim.masking import MASKINGS
from edgemim.masking._base import MaskContext, MaskingStrategy
from edgemim.models.mask_plan import MaskPlan


@dataclass(frozen=True, kw_only=True)
class MixtureMasking(MaskingStrategy):
    """Deal the places of the grid to the images of a group, equally many to each; these are its visible ones.

    A group is so many images of the batch in a row, the first group beginning at the first image.

    Args:
        images: Of a group, at least 2; a number that divides that of the patches.

    Raises:
        ConfigError: It is too small, or divides the patches of a grid into unequal shares.
    """

    images: int = 4

    def __post_init__(self) -> None:
        if self.images < 2:
            raise ConfigError(f"masking.images must be at least 2, to have something to mix; got {self.images}")

    def sample(
        self, batch: int, grid: tuple[int, int], rng: torch.Generator, context: MaskContext | None = None
    ) -> MaskPlan:
        patches = grid[0] * grid[1]
        if patches % self.images:
            fitting = [n for n in range(2, patches + 1) if patches % n == 0]
            raise ConfigError(
                f"masking.images {self.images} does not divide the {patches} patches of a grid of {grid[0]}x{grid[1]}; "
                f"numbers that do: {', '.join(map(str, fitting)) or 'none'}"
            )
        groups = -(-batch // self.images)
        dealt = torch.rand(groups, patches, generator=rng, device=rng.device).argsort(dim=1)
        places = dealt.view(groups * self.images, patches // self.images)
        return MaskPlan.from_keep_ids(places[:batch], grid)


MASKINGS.add("mixture", MixtureMasking)
