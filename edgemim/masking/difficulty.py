"""From random to hard: a growing share of the hidden patches are those that are expected to be the hardest.

Source: Wang et al., "Hard Patches Mining for Masked Image Modeling", CVPR 2023, arXiv:2304.05919, section 3.
Needs: how hard each patch is expected to be, from a method that predicts it (hpm)
Differs: the share grows with every step, from 0 before the first to `hardest` after the last; in the original with
    every epoch, from hardest / epochs in the first. The whole batch is drawn at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from edgemim.errors import ConfigError
from edgemim.masking import MASKINGS
from edgemim.masking._base import MaskContext, MaskingStrategy
from edgemim.masking._counts import check_ratio, hidden_count
from edgemim.models.mask_plan import MaskPlan


@dataclass(frozen=True, kw_only=True)
class DifficultyMasking(MaskingStrategy):
    """Hide a fixed share of the patches: the hardest ones, and others at random.

    Args:
        mask_ratio: Share of patches hidden, in (0, 1); floor(L * (1 - mask_ratio)) stay visible.
        hardest: Share of the hidden patches, in [0, 1], that are the hardest ones at the end of the run; rounded down.

    Raises:
        ConfigError: A setting is out of range, the ratio hides all patches of a grid or none, or the context has no
            `difficulty`.
    """

    needs: ClassVar[tuple[str, ...]] = ("difficulty",)

    mask_ratio: float = 0.75
    hardest: float = 0.5

    def __post_init__(self) -> None:
        check_ratio(self.mask_ratio)
        if not 0 <= self.hardest <= 1:
            raise ConfigError(f"masking.hardest must lie in [0, 1]; got {self.hardest}")

    def sample(
        self, batch: int, grid: tuple[int, int], rng: torch.Generator, context: MaskContext | None = None
    ) -> MaskPlan:
        patches = grid[0] * grid[1]
        hidden = hidden_count(patches, self.mask_ratio)
        difficulty = _difficulty(context)
        share = context.epoch_share if context else 0.0
        certain = difficulty.topk(math.floor(hidden * self.hardest * share), dim=1).indices
        # The hardest come after all random numbers, and what comes last is hidden.
        noise = torch.rand(batch, patches, generator=rng, device=rng.device).scatter_(1, certain, math.inf)
        return MaskPlan.from_keep_ids(noise.argsort(dim=1)[:, : patches - hidden], grid)


def _difficulty(context: MaskContext | None) -> Tensor:
    difficulty = context.signals.get("difficulty") if context else None
    if difficulty is None:
        raise ConfigError("difficulty masking needs 'difficulty', which is not given; use it with method hpm")
    return difficulty.detach()


MASKINGS.add("difficulty", DifficultyMasking)
