"""SparK: MAE for convnets, which see visible cells as a sparse image; a light UNet predicts the pixels of the others.

Source: Tian et al., "Designing BERT for Convolutional Networks: Sparse and Hierarchical Masked Modeling", ICLR 2023,
    arXiv:2301.03580.
Command: pretrain
Needs: a convnet (ResNet, ConvNeXt, MobileNetV4, EfficientNet, RepViT and most of their kind), and images that are a
    multiple of its total stride
Differs: the layers of the backbone are not replaced by sparse ones and converted back: they are called in another way
    while the mask holds, so that what ships is the model as timm built it. Squeeze-excite, group norm and global
    response norm, which the paper's networks do not have, take visible places only too.
    The number of visible cells is rounded down where the authors round to the nearest: the recipe hides 0.59 of the 49
    cells, so that 20 stay, as theirs do with 0.6.
    Levels are those that timm names: the deepest of each stride from 4 on, at most four.
    With several processes the sparse batch norms take the visible places of all of them, those of the decoder each
    process its own, where the authors join both; maps of one place are left alone, as averages of an image.
    In the recipe the warm-up rises from 0 instead of 0.5% of the peak.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edgemim.masking._base import MaskingStrategy
from edgemim.methods import METHODS
from edgemim.methods._base import Batch, Method, Step
from edgemim.methods._cells import CellReconstruction
from edgemim.models.adapters.base import BackboneAdapter
from edgemim.models.adapters.conv import ConvAdapter
from edgemim.models.mask_plan import MaskPlan
from edgemim.models.teachers import Teacher


@dataclass(frozen=True, kw_only=True)
class SparKSettings:
    """Settings of `spark`; the default is the paper's.

    Args:
        decoder_width: Channels of the decoder at the coarsest level, halved with each doubling of the sides; a multiple
            of the backbone's total stride.
    """

    decoder_width: int = 768


class SparK(Method):
    """See the module.

    Raises:
        ConfigError: The backbone cannot be run on visible cells alone, the images are no whole number of cells, or the
            decoder's width cannot be halved often enough.
    """

    Settings = SparKSettings
    student_needs = ("sparse",)

    def __init__(
        self,
        adapter: BackboneAdapter,
        masking: MaskingStrategy,
        settings: Any,
        teacher: Teacher | None = None,
    ) -> None:
        super().__init__(adapter, masking, settings, teacher)
        assert isinstance(adapter, ConvAdapter)
        self.cells = CellReconstruction(adapter, width=settings.decoder_width)

    def forward(self, batch: Batch, rng: torch.Generator, plan: MaskPlan | None = None) -> Step:
        plan = plan or self.draw(batch, rng)
        return Step.of({"pixels": (self.cells(self._levels(batch.images, plan), batch.images, plan), 1.0)})

    def reconstruct(self, batch: Batch, plan: MaskPlan) -> Tensor | None:
        return self.cells.images(self._levels(batch.images, plan), batch.images, plan)

    def _levels(self, images: Tensor, plan: MaskPlan) -> dict[int, Tensor]:
        return self.adapter.forward(images, plan, mode="sparse", taps=self.cells.blocks, stop_early=True).taps


METHODS.add("spark", SparK)
