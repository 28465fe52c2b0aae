"""Patches that a teacher looks at are seen more often: drawn by its attention, without replacement.

Source: Xue et al., "Stare at What You See: Masked Image Modeling without Reconstruction", CVPR 2023,
    arXiv:2211.08887, section 3.
Needs: the teacher's attention, from a method that has a plain ViT as teacher
Differs: all patches are ordered at once by an exponential race, which gives the same distribution as drawing them
    one after the other. Weights are raised by a millionth of their mean, so that patches of weight 0 come last, in
    random order. The order mask-first is that of attention-driven masking and throwing (AMT), not of this paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from edgemim.errors import ConfigError
from edgemim.masking import MASKINGS
from edgemim.masking._base import MaskContext, MaskingStrategy
from edgemim.masking._counts import check_ratio, hidden_count
from edgemim.masking._race import race
from edgemim.models.mask_plan import MaskPlan

ORDERS = ("keep-first", "mask-first")


@dataclass(frozen=True, kw_only=True)
class AttentionMasking(MaskingStrategy):
    """Draw all patches with probabilities proportional to the teacher's attention; the first ones are kept.

    Args:
        mask_ratio: Share of patches hidden, in (0, 1); floor(L * (1 - mask_ratio)) stay visible.
        order: `keep-first`: the first drawn stay visible. `mask-first`: the first drawn are hidden.

    Raises:
        ConfigError: A setting is out of range, the ratio hides all patches of a grid or none, or the context
            has no `teacher_attention` for the patches of the grid.
    """

    needs: ClassVar[tuple[str, ...]] = ("teacher_attention",)

    mask_ratio: float = 0.7
    order: str = "keep-first"

    def __post_init__(self) -> None:
        check_ratio(self.mask_ratio)
        if self.order not in ORDERS:
            raise ConfigError(f"masking.order must be one of {', '.join(ORDERS)}; got {self.order!r}")

    def sample(
        self, batch: int, grid: tuple[int, int], rng: torch.Generator, context: MaskContext | None = None
    ) -> MaskPlan:
        patches = grid[0] * grid[1]
        hidden = hidden_count(patches, self.mask_ratio)
        drawn = race(_importance(batch, grid, context), rng)
        return MaskPlan.from_keep_ids(
            drawn[:, : patches - hidden] if self.order == "keep-first" else drawn[:, hidden:], grid
        )


def _importance(batch: int, grid: tuple[int, int], context: MaskContext | None) -> Tensor:
    attention = context.signals.get("teacher_attention") if context else None
    if attention is None:
        raise ConfigError(
            "attention masking needs 'teacher_attention', which is not given; "
            "use it with a method that has a plain ViT as teacher"
        )
    if attention.shape != (batch, grid[0] * grid[1]):
        raise ConfigError(
            f"attention masking needs the teacher's attention to {grid[0]}x{grid[1]} patches of {batch} images; "
            f"got {list(attention.shape)}: student and teacher must have the same patch grid"
        )
    return attention.detach().float().clamp(min=0)


MASKINGS.add("attention", AttentionMasking)
