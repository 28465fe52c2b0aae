"""Telling what belongs together from all the rest, by the directions of vectors.

Source: van den Oord et al., "Representation Learning with Contrastive Predictive Coding", arXiv:1807.03748,
    section 2.3; several that belong together: Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020,
    arXiv:2004.11362, equation 2.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def contrast(
    queries: Tensor, keys: Tensor, positives: Tensor, temperature: float, *, left_out: Tensor | None = None
) -> Tensor:
    """Cross entropy of which keys belong to each query, from their cosines over the temperature; in float32.

    Args:
        queries: [..., N, C], of any length.
        keys: [..., M, C], of any length.
        positives: bool [N, M], true where a key belongs to a query; at least one in each row.
        temperature: Above 0.
        left_out: bool [N, M], true where a key is nothing to a query, as its own twin; no positives.

    Returns:
        A scalar: mean over the positives of a query, then over all queries.
    """
    # Autocast would round the cosines, and a low temperature turns a rounding into a factor.
    with torch.autocast(queries.device.type, enabled=False):
        scores = F.normalize(queries.float(), dim=-1) @ F.normalize(keys.float(), dim=-1).transpose(-2, -1)
        scores = scores / temperature
        if left_out is not None:
            scores = scores.masked_fill(left_out, float("-inf"))
        found = scores.log_softmax(dim=-1).masked_fill(~positives, 0)
        loss: Tensor = -(found.sum(dim=-1) / positives.sum(dim=-1)).mean()
    return loss


def of_all_processes(rows: Tensor) -> tuple[Tensor, int]:
    """The rows of all processes of a run by rank, and where those of this one begin; no gradient goes through.

    Args:
        rows: [N, C], of as many rows in every process.
    """
    if not dist.is_available() or not dist.is_initialized():
        return rows, 0
    own = rows.detach().float().contiguous()
    everyones = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(everyones, own)
    return torch.cat(everyones), dist.get_rank() * len(own)
