"""The reduction that all distances share."""

from __future__ import annotations

from torch import Tensor


def mean_over_tokens(distance: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over the channels of [B, N, C], then over the tokens that count in the whole batch.

    Args:
        distance: float32 [B, N, C].
        mask: bool [B, N], true where a token counts; None: all do.
    """
    per_token = distance.mean(dim=-1)
    if mask is None:
        return per_token.mean()
    weight = mask.to(per_token.dtype)
    return (per_token * weight).sum() / weight.sum()
