"""The adapter for timm's BEiT: mask tokens and relative position bias, as SimMIM and BEiT train it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from edgemim.models.adapters.base import BackboneAdapter, Features, check_divides
from edgemim.models.mask_plan import VISIBLE, MaskPlan

_TABLE = "relative_position_bias_table"


class BeitAdapter(BackboneAdapter):
    """Runs a `timm.models.beit.Beit`, with its bias shared by the blocks or with one for each of them.

    Its bias belongs to pairs of places in the whole grid, so it is not run on visible patches alone. A model that
    averages its tokens has its last norm behind the average: `global_pool="token"` puts it before, where masked
    pretraining needs it.

    Raises:
        ConfigError: The model takes images of a size that is not a whole number of patches.
    """

    abilities = ("full", "mask_token", "blocks", "uniform")

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__(backbone)
        # Any: timm's attributes carry no types.
        beit = self.beit = cast(Any, backbone)
        self.size = beit.patch_embed.img_size
        self.grid = self.output_grid = beit.patch_embed.grid_size
        self.patch_size = beit.patch_embed.patch_size
        check_divides(self.size, self.patch_size)
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

    @property
    def final_norm(self) -> nn.Module | None:
        norm: nn.Module = self.beit.norm
        return None if isinstance(norm, nn.Identity) else norm

    @torch.no_grad()
    def initialise(self) -> None:
        """timm's initial weights, and a patch projection from the same normal(0, 0.02).

        Source: Xie et al., "SimMIM", CVPR 2022, arXiv:2111.09886, the released ViT; timm leaves the projection at
        torch's default.
        """
        projection = self.beit.patch_embed.proj
        nn.init.trunc_normal_(projection.weight, std=0.02)
        nn.init.zeros_(projection.bias)


def unshare_bias(arguments: Mapping[str, Any], state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """timm arguments and weights of the same function with a bias in each block, for one that all blocks share.

    Those of every other model come back as they are.

    Source: Xie et al., "SimMIM", CVPR 2022, arXiv:2111.09886: blocks share a table while they are pretrained, and
    each has a copy of its own while it is fine-tuned.
    """
    new = dict(state)
    shared = new.pop(f"rel_pos_bias.{_TABLE}", None)
    if shared is None:
        return dict(arguments), new
    for name in [n for n in state if n.startswith("blocks.") and n.endswith(".attn.qkv.weight")]:
        own = name.replace("qkv.weight", _TABLE)
        new[own] = shared + new[own] if own in new else shared.clone()
    return {**arguments, "use_shared_rel_pos_bias": False, "use_rel_pos_bias": True}, new
