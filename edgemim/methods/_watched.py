"""Watching the transformer blocks of a network while another method runs it, and gating what they show of mask tokens.

The network stays as it is: inside the context a call of a block goes through here, and after it no longer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from edgemim.models.decoder_block import DecoderBlock


@dataclass(frozen=True, eq=False)
class Places:
    """Where the tokens of two kinds stand in the sequences [B, N, D] of a batch; all others are of neither.

    Attributes:
        tokens: N.
        visible: int64 [B, K], those of visible patches.
        masked: int64 [B, M], those that stand for masked patches.
    """

    tokens: int
    visible: Tensor
    masked: Tensor

    @cached_property
    def are_visible(self) -> Tensor:
        """bool [B, 1, N, 1]."""
        return self._marks(self.visible)

    @cached_property
    def are_masked(self) -> Tensor:
        """bool [B, 1, N, 1]."""
        return self._marks(self.masked)

    def _marks(self, which: Tensor) -> Tensor:
        marks = torch.zeros(len(which), self.tokens, dtype=torch.bool, device=which.device)
        return marks.scatter_(1, which, True)[:, None, :, None]


@contextmanager
def watched(blocks: Sequence[Any], places: Places, factors: Tensor | None = None) -> Iterator[list[Tensor]]:
    """Inside, keep what each block is called with, and gate its attention where factors are given.

    Args:
        blocks: Of timm's plain ViT or of our decoder, in the order in which they are called.
        places: In the sequences that they will be called with.
        factors: float32 [blocks]: what the logits from visible queries to mask keys are multiplied by in each block.
            Without, the blocks run as they would, compiled ones compiled.

    Yields:
        The tokens [B, N, D] that entered the blocks, one more with every call.
    """
    states: list[Tensor] = []
    # The one slot through which every call of a module goes first. A hook would not be seen by a compiled block.
    forms = [block._compiled_call_impl for block in blocks]
    usual = [form or block._call_impl for block, form in zip(blocks, forms, strict=True)]

    def call(index: int, x: Tensor, **part: int) -> Tensor:
        states.append(x)
        if factors is None:
            out: Tensor = usual[index](x, **part)
            return out
        return _gated(blocks[index], x, places, factors[index], **part)

    for index, block in enumerate(blocks):
        block._compiled_call_impl = partial(call, index)
    try:
        yield states
    finally:
        for block, form in zip(blocks, forms, strict=True):
            block._compiled_call_impl = form


def _gated(block: Any, x: Tensor, places: Places, factor: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
    """The tokens `start` to `stop` of the block's output; where `factor` is 1, it is what the block itself gives."""
    attention = block.attn
    joint = attention.qkv(block.norm1(x)).unflatten(2, (3, attention.num_heads, -1))
    queries, keys, values = (t.transpose(1, 2) for t in joint.unbind(2))
    queries, keys = attention.q_norm(queries[:, :, start:stop]), attention.k_norm(keys)
    # Two fused attentions cost less than one whose logits are written out.
    scaled = (keys * torch.where(places.are_masked, factor, 1.0)).to(keys.dtype)
    found = torch.where(
        places.are_visible[:, :, start:stop],
        F.scaled_dot_product_attention(queries, scaled, values),
        F.scaled_dot_product_attention(queries, keys, values),
    )
    found = attention.proj(attention.norm(found.transpose(1, 2).flatten(2)))
    x = x[:, start:stop] + _branch(block, 1, attention.proj_drop(found))
    return x + _branch(block, 2, block.mlp(block.norm2(x)))


def _branch(block: Any, number: int, x: Tensor) -> Tensor:
    """Through the layer scale and the drop path of one of the block's two branches; a decoder's block has neither."""
    if isinstance(block, DecoderBlock):
        return x
    scaled: Tensor = getattr(block, f"drop_path{number}")(getattr(block, f"ls{number}")(x))
    return scaled
