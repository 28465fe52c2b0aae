"""A small masked autoencoder with the interface of the released one, written anew for these tests: the fake checkout.

It has the two habits that have to be mended: a block that is given `qk_scale`, and `numpy.float`.
"""

from __future__ import annotations

from pathlib import Path

_POSITIONS = """
import numpy as np


def get_2d_sincos_pos_embed(width, side, cls_token=False):
    def encode(places):
        rates = 1 / 10000 ** (np.arange(width // 4, dtype=np.float) / (width / 4))
        angles = places.reshape(-1, 1) * rates
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)

    columns, rows = np.meshgrid(np.arange(side, dtype=np.float), np.arange(side, dtype=np.float))
    table = np.concatenate([encode(columns), encode(rows)], axis=1)
    return np.concatenate([np.zeros([1, width]), table]) if cls_token else table
"""

_MODEL = """
import torch
from timm.models.vision_transformer import Block, PatchEmbed
from torch import nn

from util.pos_embed import get_2d_sincos_pos_embed


class MaskedAutoencoderViT(nn.Module):
    def __init__(self, img_size, patch_size, embed_dim, depth, num_heads, decoder_embed_dim, decoder_depth,
                 decoder_num_heads, mlp_ratio, norm_layer, norm_pix_loss=False):
        super().__init__()
        side = img_size // patch_size

        def stack(width, heads, blocks):
            make = lambda: Block(width, heads, mlp_ratio, qkv_bias=True, qk_scale=None, norm_layer=norm_layer)
            return nn.ModuleList([make() for _ in range(blocks)])

        def table(width):
            values = torch.from_numpy(get_2d_sincos_pos_embed(width, side, cls_token=True)).float()
            return nn.Parameter(values[None], requires_grad=False)

        self.p, self.norm_pix_loss = patch_size, norm_pix_loss
        self.patch_embed = PatchEmbed(img_size, patch_size, 3, embed_dim)
        self.cls_token = nn.Parameter(torch.randn(1, 1, embed_dim))
        self.pos_embed = table(embed_dim)
        self.blocks = stack(embed_dim, num_heads, depth)
        self.norm = norm_layer(embed_dim)
        self.decoder_embed = nn.Linear(embed_dim, decoder_embed_dim)
        self.mask_token = nn.Parameter(torch.randn(1, 1, decoder_embed_dim))
        self.decoder_pos_embed = table(decoder_embed_dim)
        self.decoder_blocks = stack(decoder_embed_dim, decoder_num_heads, decoder_depth)
        self.decoder_norm = norm_layer(decoder_embed_dim)
        self.decoder_pred = nn.Linear(decoder_embed_dim, 3 * patch_size**2)

    def forward(self, images, mask_ratio=0.75):
        x = self.patch_embed(images) + self.pos_embed[:, 1:]
        kept = int(x.shape[1] * (1 - mask_ratio))
        keep = torch.rand(x.shape[:2], device=x.device).argsort(dim=1)[:, :kept]
        mask = torch.ones(x.shape[:2], device=x.device).scatter(1, keep, 0.0)
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1)
        x = torch.cat([first, x.gather(1, keep[..., None].expand(-1, -1, x.shape[2]))], dim=1)
        for block in self.blocks:
            x = block(x)
        x = self.decoder_embed(self.norm(x))
        full = self.mask_token.expand(len(x), mask.shape[1], -1)
        full = full.scatter(1, keep[..., None].expand(-1, -1, x.shape[2]), x[:, 1:])
        x = torch.cat([x[:, :1], full], dim=1) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            x = block(x)
        predicted = self.decoder_pred(self.decoder_norm(x))[:, 1:]
        cut = images.unfold(2, self.p, self.p).unfold(3, self.p, self.p)
        target = cut.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)
        if self.norm_pix_loss:
            target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6) ** 0.5
        loss = ((predicted - target) ** 2).mean(-1)
        return (loss * mask).sum() / mask.sum(), predicted, mask
"""


def write_fake_checkout(folder: Path) -> Path:
    """A folder that looks like a checkout of MAE's repository."""
    (folder / "util").mkdir(parents=True)
    (folder / "util" / "pos_embed.py").write_text(_POSITIONS, "utf-8")
    (folder / "models_mae.py").write_text(_MODEL, "utf-8")
    return folder
