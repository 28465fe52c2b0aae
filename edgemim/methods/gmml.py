"""GMML: recover the pixels of an image of which rectangles hold noise or a part of another one; no mask tokens.

Source: Atito et al., "GMML is All you Need", arXiv:2205.14986; released code.
Command: pretrain
Needs: a backbone without stages (ViT, BEiT)
Differs: a fresh ViT has fixed sine and cosine positions instead of trained ones. In the recipe every crop is jittered,
    by a strength that is ours, instead of three in ten, and none is blurred; its batch of 64 is that of one GPU, since
    how many there were is not known. Inferred: the terms of the two crops are added; the places, sides and contents of
    the rectangles (see `_corruption.py`); a norm of the head's own, and which blocks of a backbone that has not 12 are
    averaged (see `_pixel_head.py`). The backbone's final norm therefore learns nothing; it is neutral in the
    checkpoint of a fresh backbone.
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

    Raises:
        ConfigError: The blocks of the backbone differ in width or grid, or the images do not fit `align`.
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
        self.head = PixelHead(adapter)

    def forward(self, batch: Batch, rng: torch.Generator, plan: MaskPlan | None = None) -> Step:
        assert batch.second is not None
        crops = (batch.images, batch.second.images)
        corrupted = [self.corruption(clean, rng) for clean in crops]
        seen = torch.cat([crop.images for crop in corrupted])
        taps = self.adapter.forward(seen, taps=self.head.blocks, stop_early=True).taps
        predictions = self.head(taps).chunk(2)
        terms = {}
        for number, (clean, crop, predicted) in enumerate(zip(crops, corrupted, predictions, strict=True), start=1):
            terms[f"pixels_{number}"] = (corrupted_l1(predicted=predicted, clean=clean, mask=crop.mask), 1.0)
        return Step.of(terms)


METHODS.add("gmml", GMML)
