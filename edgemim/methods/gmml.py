"""GMML: recover the pixels of an image of which rectangles hold noise or a part of another one; no mask tokens.

Source: Atito et al., "GMML is All you Need", arXiv:2205.14986; released code.
Command: pretrain
Needs: a backbone without stages (ViT, BEiT)
Differs: a fresh ViT has fixed sine and cosine positions instead of trained ones; places and contents of the rectangles
    are drawn in another way (see `_corruption.py`), weights of the head too (see `_pixel_head.py`). In the recipe every
    crop is jittered, its hue excepted, instead of three in ten, and none is blurred; the gradients are clipped by the
    norm of all of them together, where the released code clips each tensor by its own. Inferred: of a backbone that has
    not 12 blocks, those at the same shares of its depth are averaged, each once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from edgemim.masking._base import MaskingStrategy
from edgemim.methods import METHODS
from edgemim.methods._base import Batch, Method, Step
from edgemim.methods._corruption import Corruption, corrupted_l1
from edgemim.methods._pixel_head import PixelHead
from edgemim.models.adapters.base import BackboneAdapter
from edgemim.models.mask_plan import MaskPlan
from edgemim.models.teachers import Teacher

# Blocks 6, 8, 10 and 12 of 12.
_SHARES = (1 / 2, 2 / 3, 5 / 6, 1.0)


@dataclass(frozen=True, kw_only=True)
class GMMLSettings:
    """Settings of `gmml`; the defaults are those of the released code.

    Args:
        noise: Largest share of an image's area that noise replaces, in (0, 0.8]; the least is 0.5, or `noise` where
            that is less.
        foreign: The same of parts of another image; of each image it is one or the other.
        align: Corners and sides of the rectangles are multiples of this many pixels; 1: they lie anywhere.
    """

    noise: float = 0.75
    foreign: float = 0.3
    align: int = 1

    def __post_init__(self) -> None:
        self.corruption()

    def corruption(self) -> Corruption:
        """As these settings have it."""
        return Corruption(blank="noise", blank_share=self.noise, foreign_share=self.foreign, align=self.align)


class GMML(Method):
    """See the module.

    Attributes:
        blocks: Whose outputs are averaged, ascending; the last is the backbone's last.

    Raises:
        ConfigError: The images do not fit `align`, or are no whole number of patches.
    """

    Settings = GMMLSettings
    student_needs = ("full", "blocks", "uniform")
    masks = False
    corrupts = True
    crops = 2

    def __init__(
        self,
        adapter: BackboneAdapter,
        masking: MaskingStrategy,
        settings: Any,
        teacher: Teacher | None = None,
    ) -> None:
        super().__init__(adapter, masking, settings, teacher)
        self.corruption = settings.corruption()
        self.corruption.check(adapter.size)
        self.blocks = tuple(dict.fromkeys(adapter.block_at(share) for share in _SHARES))
        self.head = PixelHead(adapter)

    def forward(self, batch: Batch, rng: torch.Generator, plan: MaskPlan | None = None) -> Step:
        assert batch.second is not None
        crops = (batch.images, batch.second.images)
        corrupted = [self.corruption(clean, rng) for clean in crops]
        seen = torch.cat([crop.images for crop in corrupted])
        taps = self.adapter.forward(seen, taps=self.blocks, stop_early=True).taps
        mean = torch.stack([taps[block] for block in self.blocks]).mean(dim=0)
        norm = self.adapter.final_norm
        predicted = self.head(mean if norm is None else norm(mean))
        mask = torch.cat([crop.mask for crop in corrupted])
        loss = corrupted_l1(predicted=predicted, clean=torch.cat(crops), mask=mask)
        return Step.of({"pixels": (loss, 1.0)})


METHODS.add("gmml", GMML)
