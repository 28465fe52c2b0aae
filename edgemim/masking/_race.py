"""Drawing without replacement, with probabilities proportional to weights, for a whole batch at once.

Source: Efraimidis and Spirakis, "Weighted random sampling with a reservoir", Information Processing Letters 97, 2006:
if i arrives after a time that is exponential with rate w_i, the first to arrive is i with probability w_i / sum(w), and
the others race on as if they had just begun.
"""

from __future__ import annotations

import torch
from torch import Tensor

_FLOOR = 1e-6


def race(weights: Tensor, rng: torch.Generator) -> Tensor:
    """Order in which all are drawn, one after the other.

    Weights are raised by a millionth of their mean, so that those of weight 0 come last, in random order.

    Args:
        weights: float32 [B, N], none negative.
        rng: On the same device.

    Returns:
        int64 [B, N]: ids, the first drawn first.
    """
    times = torch.empty_like(weights).exponential_(generator=rng)
    raised = weights + _FLOOR * weights.mean(dim=1, keepdim=True) + torch.finfo(torch.float32).tiny
    return (times.log() - raised.log()).argsort(dim=1)  # logarithms: a quotient could overflow
