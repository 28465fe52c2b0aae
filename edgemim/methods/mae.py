"""MAE: encode a quarter of the patches, predict the pixels of the rest.

Source: He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022, arXiv:2111.06377.
Command: pretrain
Needs: a ViT-like backbone
Differs: visible patches stay in raster order instead of the drawn one, which changes nothing but rounding;
    the initial weights of the decoder's last layer and all others follow the paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edgemim.masking._base import MaskingStrategy
from edgemim.methods import METHODS
from edgemim.methods._base import Batch, Method, Step
from edgemim.methods._pixels import PixelReconstruction
from edgemim.models.adapters.base import BackboneAdapter
from edgemim.models.mask_plan import MaskPlan
from edgemim.models.teachers import Teacher


@dataclass(frozen=True, kw_only=True)
class MAESettings:
    """Settings of `mae`; the defaults are the paper's.

    Args:
        decoder_width, decoder_depth, decoder_heads: Of the decoder.
        norm_pix: Normalise each target patch by its own mean and deviation (all released checkpoints do).
    """

    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    norm_pix: bool = True


class MAE(Method):
    """See the module."""

    Settings = MAESettings
    student_needs = ("visible",)

    def __init__(
        self,
        adapter: BackboneAdapter,
        masking: MaskingStrategy,
        settings: Any,
        teacher: Teacher | None = None,
    ) -> None:
        super().__init__(adapter, masking, settings, teacher)
        self.pixels = PixelReconstruction(
            adapter,
            width=settings.decoder_width,
            depth=settings.decoder_depth,
            heads=settings.decoder_heads,
            norm_pix=settings.norm_pix,
        )

    def forward(self, batch: Batch, rng: torch.Generator, plan: MaskPlan | None = None) -> Step:
        plan = plan or self.draw(batch, rng)
        tokens = self.adapter.forward(batch.images, plan, mode="visible").final
        return Step.of({"pixels": (self.pixels(tokens, batch.images, plan), 1.0)})

    def reconstruct(self, batch: Batch, plan: MaskPlan) -> Tensor | None:
        tokens = self.adapter.forward(batch.images, plan, mode="visible").final
        return self.pixels.images(tokens, batch.images, plan)


METHODS.add("mae", MAE)
