"""The adapter for timm's plain vision transformers: ViT, DeiT, CLIP and DINO towers, register tokens."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, cast

import torch
import torch.nn.functional as F
from timm.layers import PatchEmbed
from torch import Tensor, nn

from edgemim.errors import ConfigError
from edgemim.models.adapters.base import QKV, Attend, Features, TokenAdapter, check_divides
from edgemim.models.initialise import initialise_linear
from edgemim.models.mask_plan import VISIBLE, MaskPlan, gather_tokens
from edgemim.models.positions import sincos_positions
from edgemim.models.sharding import gathered


class ViTAdapter(TokenAdapter):
    """Runs a `timm.models.VisionTransformer`.

    Positions are added before patches are left out, so every visible patch keeps its own (MAE, section 3).

    Raises:
        ConfigError: The model takes images of any size, for which patch ids would have no fixed meaning, or
            of a size that is not a whole number of patches.
    """

    abilities: tuple[str, ...] = ("full", "visible", "mask_token", "blocks", "uniform", "qkv", "tokens")

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__(backbone)
        # Any: timm's attributes carry no types.
        vit = self.vit = cast(Any, backbone)
        if vit.dynamic_img_size:
            raise ConfigError("masked pretraining needs a fixed image size; leave backbone.dynamic_img_size false")
        self.size = vit.patch_embed.img_size
        self.grid = self.output_grid = vit.patch_embed.grid_size
        self.patch_size = vit.patch_embed.patch_size
        check_divides(self.size, self.patch_size)
        self.width = vit.embed_dim
        self.depth = len(vit.blocks)
        self.num_prefix = vit.num_prefix_tokens
        if not all(hasattr(b, "norm1") and hasattr(getattr(b, "attn", None), "qkv") for b in vit.blocks):
            self.abilities = ("full", "visible", "mask_token", "blocks", "uniform")
        elif not all(_is_plain(b) for b in vit.blocks):
            self.abilities = ("full", "visible", "mask_token", "blocks", "uniform", "qkv")

    @staticmethod
    def fits(backbone: nn.Module) -> bool:
        """Whether this is timm's plain ViT; a subclass with tokens or blocks of its own is not, nor is a hybrid.

        The patches of a hybrid are places of a convnet's features: each says something of its neighbours' pixels.
        """
        from timm.models.vision_transformer import VisionTransformer
        from timm.models.vision_transformer_hybrid import HybridEmbed

        return type(backbone) is VisionTransformer and not isinstance(backbone.patch_embed, HybridEmbed)

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
        tokens = self._embed(images, plan, mode, mask_token)
        return self.run(tokens, taps=taps, qkv=qkv, stop_early=stop_early)

    def run(
        self,
        tokens: Tensor,
        *,
        taps: Collection[int] = (),
        qkv: Collection[int] = (),
        stop_early: bool = False,
        attend: Attend | None = None,
    ) -> Features:
        x = tokens
        tapped, attended = {}, {}
        last = max([*taps, *qkv], default=-1) if stop_early else self.depth - 1
        for index in range(last + 1):
            block = self.vit.blocks[index]
            if attend is not None:
                with gathered(block):
                    attended[index], x = _attended(block, index, x, attend)
            elif index in qkv:
                if stop_early and index == last and index not in taps:
                    with gathered(block):
                        attended[index] = _split(block.attn, block.attn.qkv(block.norm1(x)))
                    break
                joint: list[Tensor] = []
                handle = block.attn.qkv.register_forward_hook(lambda m, i, out, seen=joint: seen.append(out))
                try:
                    x = block._call_impl(x)  # the plain form: a compiled block would not see the hook
                finally:
                    handle.remove()
                with gathered(block):
                    attended[index] = _split(block.attn, joint[-1])
            else:
                x = block(x)
            if index in taps:
                tapped[index] = x
        wanted = {index: seen for index, seen in attended.items() if index in qkv}
        return Features(None if stop_early else self.vit.norm(x), tapped, wanted)

    def heads_of(self, block: int) -> int:
        return int(self.vit.blocks[block].attn.num_heads)

    def _embed(self, images: Tensor, plan: MaskPlan | None, mode: str, mask_token: Tensor | None) -> Tensor:
        ids = None
        if mode == "visible":
            assert plan is not None
            ids = plan.keep_ids
        patches = self.embed(images, ids)
        if mode == "mask_token":
            assert plan is not None
            assert mask_token is not None
            hidden = (plan.role != VISIBLE).unsqueeze(-1)
            patches = torch.where(hidden, mask_token.to(patches.dtype), patches)
        positions = self.positions(ids)
        return self.with_prefix(patches if positions is None else patches + positions)

    def embed(self, images: Tensor, ids: Tensor | None = None) -> Tensor:
        embed = self.vit.patch_embed
        if ids is not None and _projects_patches(embed):
            return _embed_patches(embed, images, ids)
        patches: Tensor = embed(images)
        return patches if ids is None else gather_tokens(patches, ids)

    def positions(self, ids: Tensor | None = None) -> Tensor | None:
        table = self._positions()[1]
        return table if table is None or ids is None else F.embedding(ids, table[0])

    def with_prefix(self, patches: Tensor) -> Tensor:
        prefix = self._prefix(self._positions()[0], patches)
        embedded: Tensor = self.vit.norm_pre(self.vit.pos_drop(torch.cat([prefix, patches], dim=1)))
        return embedded

    def _positions(self) -> tuple[Tensor | None, Tensor | None]:
        table = self.vit.pos_embed
        if table is None or self.vit.no_embed_class or not self.num_prefix:
            return None, table
        return table[:, : self.num_prefix], table[:, self.num_prefix :]

    def _prefix(self, positions: Tensor | None, patches: Tensor) -> Tensor:
        given = [t for t in (self.vit.cls_token, self.vit.reg_token) if t is not None]
        if not given:
            return patches[:, :0]
        prefix = torch.cat(given, dim=1)
        prefix = prefix if positions is None else prefix + positions
        return prefix.expand(patches.shape[0], -1, -1).to(patches.dtype)

    @property
    def final_norm(self) -> nn.Module | None:
        norm: nn.Module = self.vit.norm
        return None if isinstance(norm, nn.Identity) else norm

    @torch.no_grad()
    def initialise(self) -> None:
        """Xavier-uniform linear layers, fixed sine and cosine positions, tokens from normal(0, 0.02).

        Source: He et al., arXiv:2111.06377, appendix A. The positions stop being trainable.
        """
        self.vit.apply(initialise_linear)
        projection = self.vit.patch_embed.proj.weight
        nn.init.xavier_uniform_(projection.view(projection.shape[0], -1))
        if self.vit.patch_embed.proj.bias is not None:
            nn.init.zeros_(self.vit.patch_embed.proj.bias)
        for token in (self.vit.cls_token, self.vit.reg_token):
            if token is not None:
                nn.init.normal_(token, std=0.02)
        self._fix_positions()

    def keep_computed(self) -> None:
        table = self.vit.pos_embed
        if table is None or self.width % 4:
            return
        computed = self._computed_positions()
        # Two ways to compute sines in float32 differ by less; a trained table by far more.
        if table.shape == computed.shape and bool((table.detach().cpu() - computed).abs().max() < 1e-5):
            table.requires_grad_(False)

    def _fix_positions(self) -> None:
        if self.vit.pos_embed is None:
            return
        self.vit.pos_embed.copy_(self._computed_positions())
        self.vit.pos_embed.requires_grad_(False)

    def _computed_positions(self) -> Tensor:
        prefix = 0 if self.vit.no_embed_class else self.num_prefix
        return sincos_positions(self.width, self.grid, prefix)[None]


def _projects_patches(embed: Any) -> bool:
    """Whether a patch's embedding is a linear function of its own pixels, and nothing but a norm follows."""
    if type(embed) is not PatchEmbed or type(embed.proj) is not nn.Conv2d:
        return False
    proj = embed.proj
    cuts = proj.kernel_size == proj.stride == tuple(embed.patch_size) and proj.padding == (0, 0)
    whole = proj.dilation == (1, 1) and proj.groups == 1
    return bool(cuts and whole and embed.flatten and not embed.dynamic_img_pad)


def _embed_patches(embed: Any, images: Tensor, ids: Tensor) -> Tensor:
    """[B, K, D]: the embeddings of the patches `ids` (int64 [B, K]) of [B, 3, H, W], and of no other."""
    (h, w), (rows, columns) = embed.patch_size, embed.grid_size
    pixels = images.reshape(len(images), -1, rows, h, columns, w).permute(0, 2, 4, 1, 3, 5)
    pixels = gather_tokens(pixels.reshape(len(images), rows * columns, -1), ids)
    patches: Tensor = embed.norm(F.linear(pixels, embed.proj.weight.flatten(1), embed.proj.bias))
    return patches


def _is_plain(block: Any) -> bool:
    """Whether `_attended` computes what the block does: timm's own, without the norm and the gate of some variants."""
    from timm.models.vision_transformer import Attention, Block

    attention = getattr(block, "attn", None)
    return type(block) is Block and type(attention) is Attention and getattr(attention, "gate", None) is None


def _attended(block: Any, index: int, x: Tensor, attend: Attend) -> tuple[QKV, Tensor]:
    """The block's queries, keys and values, and its output with another attention."""
    attention = block.attn
    qkv = _split(attention, attention.qkv(block.norm1(x)))
    found = attention.norm(attend(index, qkv).transpose(1, 2).flatten(2))
    x = x + block.drop_path1(block.ls1(attention.proj_drop(attention.proj(found))))
    return qkv, x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))


def _split(attention: Any, joint: Tensor) -> QKV:
    """The output [B, N, 3 * heads * d] of timm's joint projection, as its attention splits and norms it."""
    batch, tokens, _ = joint.shape
    split = joint.reshape(batch, tokens, 3, attention.num_heads, attention.head_dim).permute(2, 0, 3, 1, 4)
    queries, keys, values = split.unbind(0)
    return QKV(attention.q_norm(queries), attention.k_norm(keys), values)
