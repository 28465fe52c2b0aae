"""The decoder of CAE: it sees nothing but what was guessed of the masked patches.

Source: Chen et al., "Context Autoencoder for Self-Supervised Representation Learning", IJCV 2024, arXiv:2202.03026,
    section 3; without blocks it is the head of Zhang et al., "CAE v2", arXiv:2211.09799.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import LayerNorm
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from edgemim.models.initialise import initialise_linear
from edgemim.models.mask_plan import MaskPlan
from edgemim.models.positions import sincos_positions


class MaskedDecoder(nn.Module):
    """Fixed positions and pre-norm blocks, where there are blocks; norm, linear to `outputs`.

    Args:
        width: Channels of a token.
        grid: Height and width of the patch grid.
        outputs: Numbers predicted for each patch.
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
        outputs: int,
        *,
        depth: int = 4,
        heads: int = 12,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.register_buffer("positions", sincos_positions(width, grid), persistent=False)
        shape = {"qkv_bias": True, "init_values": layer_scale, "norm_layer": LayerNorm}
        rates = torch.linspace(0, drop_path, depth).tolist()
        self.blocks = nn.ModuleList(Block(width, heads, drop_path=rate, **shape) for rate in rates)
        self.norm = LayerNorm(width)
        self.predict = nn.Linear(width, outputs)
        self.apply(initialise_linear)

    def forward(self, latents: Tensor, plan: MaskPlan) -> Tensor:
        """Predictions for the masked patches, [B, M, outputs].

        Args:
            latents: [B, M, width], in the order of the plan's `mask_ids`.
            plan: Of these images.
        """
        x = latents
        if len(self.blocks):
            x = x + F.embedding(plan.mask_ids, self.positions.to(x.dtype))
        for block in self.blocks:
            x = block(x)
        return self.read(x)

    def read(self, tokens: Tensor) -> Tensor:
        """What lies behind the blocks: [B, N, outputs] of tokens [B, N, width]."""
        predicted: Tensor = self.predict(self.norm(tokens))
        return predicted
