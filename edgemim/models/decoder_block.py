"""The block of the decoder: a pre-norm transformer block that leaves out what nobody reads.

Source: He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022, arXiv:2111.06377, section 3;
Dosovitskiy et al., arXiv:2010.11929, equations 2 and 3.
"""

from __future__ import annotations

import torch.nn.functional as F
from timm.layers import LayerNorm, Mlp
from timm.models.vision_transformer import Attention
from torch import Tensor, nn


class DecoderBlock(nn.Module):
    """Norm, attention, norm, MLP, each pair with a residual; parts and names are those of timm's own block.

    Args:
        width: Channels of a token.
        heads: Of the attention.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = LayerNorm(width)
        self.attn = Attention(width, heads, qkv_bias=True)
        self.norm2 = LayerNorm(width)
        self.mlp = Mlp(width, 4 * width)

    def forward(self, x: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        """The tokens `start` to `stop` of the block's output.

        Args:
            x: [B, N, width].
            start, stop: Which tokens are wanted; all are attended to.
        """
        joint: Tensor = self.attn.qkv(self.norm1(x))
        # Unbound before the heads move to the front: autograd then stacks three gradients in one copy, not in two.
        queries, keys, values = joint.unflatten(2, (3, self.attn.num_heads, -1)).unbind(2)
        found = F.scaled_dot_product_attention(
            queries[:, start:stop].transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2)
        )
        x = x[:, start:stop] + self.attn.proj(found.transpose(1, 2).flatten(2))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out
