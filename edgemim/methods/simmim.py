"""SimMIM: all patches go in, a mask token in place of the hidden ones; one linear layer predicts their pixels.

Source: Xie et al., "SimMIM: A Simple Framework for Masked Image Modeling", CVPR 2022, arXiv:2111.09886.
Command: pretrain
Needs: a backbone that takes mask tokens (ViT, BEiT, Swin)
Differs: the mask token starts from a normal of deviation 0.02 that is cut at one deviation and is never decayed,
    for every backbone (the released ViT decays it, the released Swin does not cut it);
    the paper's ViT, with a bias shared by its blocks, is timm's BEiT (recipe `simmim`); a plain ViT trains too, with
    fixed positions instead;
    in the recipes the warm-up rises from 0 instead of 5e-7 per 512 images, and crops are resized bicubically.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgemim.errors import ConfigError
from edgemim.masking._base import MaskingStrategy
from edgemim.methods import METHODS
from edgemim.methods._base import Batch, Method, Step
from edgemim.models.adapters.base import BackboneAdapter
from edgemim.models.mask_plan import MaskPlan
from edgemim.models.teachers import Teacher

# Keeps the mean of no pixels at all defined.
_EPS = 1e-5


@dataclass(frozen=True, kw_only=True)
class SimMIMSettings:
    """`simmim` has none of its own: what the paper varies is the masking (its `cells`) and the backbone."""


class SimMIM(Method):
    """See the module.

    Raises:
        ConfigError: The images are no whole number of the blocks of pixels that a final token predicts.
    """

    Settings = SimMIMSettings
    student_needs = ("mask_token",)

    def __init__(
        self,
        adapter: BackboneAdapter,
        masking: MaskingStrategy,
        settings: Any,
        teacher: Teacher | None = None,
    ) -> None:
        super().__init__(adapter, masking, settings, teacher)
        stride = _stride(adapter)
        self.mask_token = nn.Parameter(torch.empty(1, 1, adapter.width_of(0)))
        nn.init.trunc_normal_(self.mask_token, std=0.02, a=-0.02, b=0.02)
        self.head = nn.Conv2d(adapter.width, 3 * stride * stride, kernel_size=1)
        self.to_pixels = nn.PixelShuffle(stride)

    def forward(self, batch: Batch, rng: torch.Generator, plan: MaskPlan | None = None) -> Step:
        plan = plan or self.draw(batch, rng)
        error = (batch.images.float() - self._predict(batch.images, plan)).abs()
        counts = _on_pixels(plan, self.adapter.patch_size)
        pixels = (error * counts).sum() / (counts.sum() + _EPS) / error.shape[1]
        return Step.of({"pixels": (pixels, 1.0)})

    def reconstruct(self, batch: Batch, plan: MaskPlan) -> Tensor | None:
        return self._predict(batch.images, plan)

    def no_weight_decay(self) -> Collection[str]:
        return "mask_token", "model.cls_token", "model.pos_embed"

    def _predict(self, images: Tensor, plan: MaskPlan) -> Tensor:
        """float32 [B, 3, H, W], the whole image."""
        adapter = self.adapter
        tokens = adapter.forward(images, plan, mode="mask_token", mask_token=self.mask_token.flatten()).final
        patches = tokens[:, adapter.num_prefix :].transpose(1, 2)
        predicted: Tensor = self.to_pixels(self.head(patches.unflatten(2, adapter.output_grid)))
        return predicted.float()


def _on_pixels(plan: MaskPlan, patch_size: tuple[int, int]) -> Tensor:
    """bool [B, 1, H, W], true for the pixels of masked patches.

    The plan lies on the grid of the patch embedding, which in a staged backbone is finer than that of the head.
    """
    mask = plan.mask.view(-1, 1, *plan.grid)
    return mask.repeat_interleave(patch_size[0], dim=2).repeat_interleave(patch_size[1], dim=3)


def _stride(adapter: BackboneAdapter) -> int:
    """Side in pixels of the square that one final token predicts."""
    name, (height, width) = type(adapter.backbone).__name__, adapter.stride
    if height != width:
        raise ConfigError(
            f"method 'simmim' predicts squares, a final token of {name} stands for {height}x{width} pixels; "
            "choose a square backbone.patch_size"
        )
    if (adapter.output_grid[0] * height, adapter.output_grid[1] * width) != adapter.size:
        raise ConfigError(
            f"images of {adapter.size[0]}x{adapter.size[1]} are no whole number of the {height}x{width} pixels that a "
            f"final token of {name} stands for; choose backbone.img_size as a multiple of {height}"
        )
    return height


METHODS.add("simmim", SimMIM)
