"""The latent regressor of CAE: cross-attention that guesses what an encoder would say of patches it has not seen.

Source: Chen et al., "Context Autoencoder for Self-Supervised Representation Learning", IJCV 2024, arXiv:2202.03026,
    section 3; released code (layer scale, drop path, initial weights).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import DropPath, LayerNorm, Mlp
from timm.models.vision_transformer import LayerScale
from torch import Tensor, nn

from edgemim.models.initialise import initialise_linear
from edgemim.models.mask_plan import MaskPlan
from edgemim.models.positions import sincos_positions


class LatentRegressor(nn.Module):
    """A mask token for each masked patch, cross-attention blocks, norm.

    Args:
        width: Channels of the latents.
        grid: Height and width of the patch grid.
        depth, heads: Of the blocks; the MLP ratio is 4.
        layer_scale: With which the factors on what a block adds begin; None: without factors.
        drop_path: Rate of the last block, to which those of the others rise from 0.

    Raises:
        ConfigError: `width` is not a multiple of 4.
    """

    positions: Tensor

    def __init__(
        self,
        width: int,
        grid: tuple[int, int],
        *,
        depth: int = 4,
        heads: int = 12,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.register_buffer("positions", sincos_positions(width, grid), persistent=False)
        rates = torch.linspace(0, drop_path, depth).tolist()
        self.blocks = nn.ModuleList(CrossAttentionBlock(width, heads, layer_scale, rate) for rate in rates)
        self.norm = LayerNorm(width)
        self.apply(initialise_linear)
        nn.init.trunc_normal_(self.mask_token, std=0.02, a=-0.02, b=0.02)

    def forward(self, seen: Tensor, plan: MaskPlan) -> Tensor:
        """Latents of the masked patches, [B, M, width], in the order of the plan's `mask_ids`.

        Args:
            seen: [B, K, width], latents of the visible patches by ascending id, without a class token.
            plan: Of these images.
        """
        table = self.positions.to(seen.dtype)
        at = F.embedding(plan.mask_ids, table)
        places = torch.cat([F.embedding(plan.keep_ids, table), at], dim=1)
        x = self.mask_token.to(seen.dtype).expand(*at.shape[:2], -1)
        for block in self.blocks:
            x = block(x, at, torch.cat([seen, x], dim=1), places)
        predicted: Tensor = self.norm(x)
        return predicted


class CrossAttentionBlock(nn.Module):
    """Attention of M tokens to N others, a norm of the sum, and an MLP on top of what the norm gives.

    Args:
        width: Channels of a token.
        heads: Of the attention.
        layer_scale: With which the factors of attention and MLP begin; None: without factors.
        drop_path: Rate at which an image goes without the one or the other.
    """

    def __init__(self, width: int, heads: int, layer_scale: float | None = None, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm_queries = LayerNorm(width)
        self.norm_keys = LayerNorm(width)
        self.norm_values = LayerNorm(width)
        self.attn = CrossAttention(width, heads)
        self.norm = LayerNorm(width)
        self.mlp = Mlp(width, 4 * width)
        self.ls1, self.ls2 = (LayerScale(width, layer_scale) if layer_scale else nn.Identity() for _ in range(2))
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor, at: Tensor, context: Tensor, places: Tensor) -> Tensor:
        """The tokens one block further, [B, M, width].

        Args:
            x: [B, M, width].
            at: Their positions, of the same shape.
            context: [B, N, width], what they attend to.
            places: Positions of the context, which its values do not get.
        """
        queries, keys = self.norm_queries(x + at), self.norm_keys(context + places)
        x = self.norm(x + self.drop_path(self.ls1(self.attn(queries, keys, self.norm_values(context)))))
        out: Tensor = x + self.drop_path(self.ls2(self.mlp(x)))
        return out


class CrossAttention(nn.Module):
    """Multi-head attention of M tokens to N others.

    Args:
        width: Channels of a token.
        heads: Equal parts of the channels.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.queries = nn.Linear(width, width)
        # A bias would add the same to a query's products with all keys, and a softmax does not see that.
        self.keys = nn.Linear(width, width, bias=False)
        self.values = nn.Linear(width, width)
        self.proj = nn.Linear(width, width)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """[B, M, width], from queries [B, M, width] and keys and values [B, N, width]."""
        found = F.scaled_dot_product_attention(
            self._cut(self.queries(queries)), self._cut(self.keys(keys)), self._cut(self.values(values))
        )
        out: Tensor = self.proj(found.transpose(1, 2).flatten(2))
        return out

    def _cut(self, tokens: Tensor) -> Tensor:
        parts: Tensor = tokens.unflatten(2, (self.num_heads, -1)).transpose(1, 2)
        return parts
