"""The adapter for timm's Swin: all tokens of its finest grid, hidden ones replaced by a mask token."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, cast

import torch
from torch import Tensor, nn

from edgemim.models.adapters.base import BackboneAdapter, Features, check_divides
from edgemim.models.mask_plan import VISIBLE, MaskPlan


class SwinAdapter(BackboneAdapter):
    """Runs a `timm.models.SwinTransformer`.

    `grid` is that of the patch embedding (4-pixel patches), `output_grid` that of the last stage: each stage after
    the first halves it, rounded up. Blocks are counted through all stages, and a tap is [B, H * W, D] of its own
    stage. Windows are dense: there is no `visible` mode.

    Raises:
        ConfigError: The model takes images of a size that is not a whole number of patches.
    """

    abilities = ("full", "mask_token", "blocks")

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__(backbone)
        # Any: timm's attributes carry no types.
        swin = self.swin = cast(Any, backbone)
        self.size = swin.patch_embed.img_size
        self.grid = swin.patch_embed.grid_size
        self.patch_size = swin.patch_embed.patch_size
        check_divides(self.size, self.patch_size)
        self._shrink = 2 ** (len(swin.layers) - 1)
        self.output_grid = (-(-self.grid[0] // self._shrink), -(-self.grid[1] // self._shrink))
        self.width = swin.num_features
        self._widths = [block.dim for stage in swin.layers for block in stage.blocks]
        self.depth = len(self._widths)

    @staticmethod
    def fits(backbone: nn.Module) -> bool:
        """Whether this is timm's Swin (not V2, whose blocks differ)."""
        from timm.models.swin_transformer import SwinTransformer

        return type(backbone) is SwinTransformer

    @property
    def stride(self) -> tuple[int, int]:
        return self.patch_size[0] * self._shrink, self.patch_size[1] * self._shrink

    def forward(
        self,
        images: Tensor,
        plan: MaskPlan | None = None,
        *,
        mode: str = "full",
        mask_token: Tensor | None = None,
        taps: Collection[int] = (),
        qkv: Collection[int] = (),
        stop_early: bool = False,
    ) -> Features:
        x = self.swin.patch_embed(images)
        if mode == "mask_token":
            assert plan is not None
            assert mask_token is not None
            hidden = (plan.role != VISIBLE).view(len(x), *self.grid, 1)
            x = torch.where(hidden, mask_token.to(x.dtype), x)
        tapped = {}
        last = max(taps, default=-1) if stop_early else self.depth - 1
        index = 0
        for stage in self.swin.layers:
            if index > last:
                break
            x = stage.downsample(x)
            for block in stage.blocks[: last + 1 - index]:
                x = block(x)
                if index in taps:
                    tapped[index] = x.flatten(1, 2)
                index += 1
        return Features(None if stop_early else self.swin.norm(x).flatten(1, 2), tapped)

    def width_of(self, block: int) -> int:
        return int(self._widths[block])

    def initialise(self) -> None:
        """timm's own initial weights of Swin are those of its paper; nothing is to be done."""
