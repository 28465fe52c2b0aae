"""Relations between tokens: what a student can take over whatever its width and depth.

Source: Wang et al., "MiniLMv2: Multi-Head Self-Attention Relation Distillation for Compressing Pretrained
    Transformers", Findings of ACL 2021, arXiv:2012.15828, section 3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgemim.errors import ConfigError
from edgemim.methods._teacher_view import shared_prefix
from edgemim.models.adapters.base import QKV, BackboneAdapter


def relation(rows: Tensor, columns: Tensor) -> Tensor:
    """Scaled products of every token with every other, before the softmax.

    Args:
        rows, columns: Two (or twice one) of queries, keys and values, [B, heads, N, d].

    Returns:
        float32 [B, heads, N, N], also under autocast: a softmax turns a rounding of its logits into a factor.
    """
    with torch.autocast(rows.device.type, enabled=False):
        scaled = rows.float() * rows.shape[-1] ** -0.5  # rows are far fewer numbers than their products
        products: Tensor = scaled @ columns.float().transpose(-2, -1)
    return products


def comparable(qkv: QKV, own: BackboneAdapter, other: BackboneAdapter, *, heads: int = 0) -> QKV:
    """Queries, keys and values in the form in which two models are compared; views of the given ones.

    Args:
        qkv: Of the model of `own`, each [B, h, P + N, d].
        own: Its P prefix tokens are left out where `other` has not equally many.
        other: Of the model that it is compared with.
        heads: The h x d channels, side by side, are cut anew into so many equal heads; 0: they stay as they are.
    """
    start = own.num_prefix - shared_prefix(own, other)

    def of(x: Tensor) -> Tensor:
        x = x[:, :, start:]
        return x.transpose(1, 2).flatten(2).unflatten(2, (heads, -1)).transpose(1, 2) if heads else x

    return QKV(of(qkv.queries), of(qkv.keys), of(qkv.values))


def block_setting(setting: str, given: int, default: int, adapter: BackboneAdapter) -> int:
    """Index of a block that a setting names; -1 is the default.

    Raises:
        ConfigError: There is no such block.
    """
    if given == -1:
        return default
    if not 0 <= given < adapter.depth:
        raise ConfigError(
            f"method.{setting} {given} does not exist in the {setting.removesuffix('_block')}; "
            f"choose one of its blocks 0 to {adapter.depth - 1}, or -1 for the default"
        )
    return given
