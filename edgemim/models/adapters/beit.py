"""The adapter for timm's BEiT: mask tokens and relative position bias, as SimMIM and BEiT train it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, cast

import torch
from torch import Tensor, nn

from edgemim.models.adapters.base import BackboneAdapter, Features
from edgemim.models.mask_plan import VISIBLE, MaskPlan


class BeitAdapter(BackboneAdapter):
    """Runs a `timm.models.beit.Beit`, with its bias shared by the blocks or with one for each of them.

    Its bias belongs to pairs of places in the whole grid, so it is not run on visible patches alone.
    """

    abilities = ("full", "mask_token", "blocks")

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__(backbone)
        # Any: timm's attributes carry no types.
        beit = self.beit = cast(Any, backbone)
        self.size = beit.patch_embed.img_size
        self.grid = self.output_grid = beit.patch_embed.grid_size
        self.patch_size = beit.patch_embed.patch_size
        self.width = beit.embed_dim
        self.depth = len(beit.blocks)
        self.num_prefix = 1

    @staticmethod
    def fits(backbone: nn.Module) -> bool:
        """Whether this is timm's BEiT."""
        from timm.models.beit import Beit

        return type(backbone) is Beit

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
        patches = self.beit.patch_embed(images)
        if mode == "mask_token":
            assert plan is not None
            assert mask_token is not None
            patches = torch.where((plan.role != VISIBLE).unsqueeze(-1), mask_token.to(patches.dtype), patches)
        x = torch.cat([self.beit.cls_token.expand(len(patches), -1, -1).to(patches.dtype), patches], dim=1)
        if self.beit.pos_embed is not None:
            x = x + self.beit.pos_embed
        x = self.beit.pos_drop(x)
        bias = None if self.beit.rel_pos_bias is None else self.beit.rel_pos_bias()
        tapped = {}
        last = max(taps, default=-1) if stop_early else self.depth - 1
        for index in range(last + 1):
            x = self.beit.blocks[index](x, shared_rel_pos_bias=bias)
            if index in taps:
                tapped[index] = x
        return Features(None if stop_early else self.beit.norm(x), tapped)

    def initialise(self) -> None:
        """timm's own initial weights of BEiT are those of its paper; nothing is to be done."""
