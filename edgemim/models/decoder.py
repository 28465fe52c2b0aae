"""The light transformer that predicts hidden patches from visible ones, thrown away after pretraining.

Source: He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022, arXiv:2111.06377, section 3.
"""

from __future__ import annotations

import torch
from timm.layers import LayerNorm
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from edgemim.errors import ConfigError
from edgemim.models.initialise import initialise_linear
from edgemim.models.mask_plan import MaskPlan, gather_tokens
from edgemim.models.positions import sincos_positions


class MAEDecoder(nn.Module):
    """Linear to `width`, mask tokens, fixed positions, pre-norm blocks, norm, linear to `outputs`.

    Args:
        encoder_width: Channels of the incoming tokens.
        grid: Height and width of the patch grid.
        outputs: Numbers predicted for each patch.
        width, depth, heads: Of the decoder's blocks; the MLP ratio is 4.
        num_prefix: Tokens in front of the visible patches; the first is the class token. They take part in
            the attention with position zero and are dropped at the end.

    Raises:
        ConfigError: `width` is not a multiple of `heads`, or of 4, or a number is out of range.
    """

    positions: Tensor

    def __init__(
        self,
        encoder_width: int,
        grid: tuple[int, int],
        outputs: int,
        *,
        width: int = 512,
        depth: int = 8,
        heads: int = 16,
        num_prefix: int = 1,
    ) -> None:
        super().__init__()
        if min(width, heads) < 1 or depth < 0:
            raise ConfigError(f"decoder width {width} and heads {heads} must be at least 1, depth {depth} at least 0")
        if width % heads:
            raise ConfigError(f"decoder width {width} is not a multiple of its {heads} heads")
        self.num_prefix = num_prefix
        self.embed = nn.Linear(encoder_width, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.register_buffer("positions", sincos_positions(width, grid, num_prefix)[None], persistent=False)
        # eps 1e-6 (section 0.4 of the released code's conventions); timm's blocks default to the same.
        self.blocks = nn.ModuleList(
            Block(width, heads, mlp_ratio=4.0, qkv_bias=True, norm_layer=LayerNorm) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.predict = nn.Linear(width, outputs)
        self.apply(initialise_linear)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, tokens: Tensor, plan: MaskPlan) -> Tensor:
        """From [B, P + K, encoder_width] (prefix, then the visible patches by ascending id) to [B, L, outputs]."""
        x = self.embed(tokens)
        prefix, visible = x[:, : self.num_prefix], x[:, self.num_prefix :]
        hidden = plan.role.shape[1] - visible.shape[1]
        mask_tokens = self.mask_token.to(x.dtype).expand(x.shape[0], hidden, -1)
        patches = gather_tokens(torch.cat([visible, mask_tokens], dim=1), plan.restore_ids)
        x = torch.cat([prefix, patches], dim=1) + self.positions.to(x.dtype)
        for block in self.blocks:
            x = block(x)
        predicted: Tensor = self.predict(self.norm(x[:, self.num_prefix :]))
        return predicted
