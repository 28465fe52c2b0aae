"""Learning to say which patches are hard: their order, or how hard each is.

Source: Wang et al., "Hard Patches Mining for Masked Image Modeling", CVPR 2023, arXiv:2304.05919, section 3.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Inside the logarithm, so that a pair in the wrong order costs no more than 13.8.
_EPS = 1e-6


def order_loss(scores: Tensor, errors: Tensor) -> Tensor:
    """How far scores are from ordering the patches of each image as their errors do.

    Of two patches the harder one should win: the cost is -log(sigmoid(its score - the other's)). Pairs with equal
    errors do not count.

    Args:
        scores: [B, M], of M patches of each image.
        errors: [B, M], of the same ones; they learn nothing here.

    Returns:
        A scalar in float32: the mean over all pairs of the batch that count; 0 where none does.
    """
    scores, errors = scores.float(), errors.detach().float()
    won = (scores.unsqueeze(2) - scores.unsqueeze(1)).sigmoid()
    harder = errors.unsqueeze(2) > errors.unsqueeze(1)
    return -((won + _EPS).log() * harder).sum() / harder.sum().clamp(min=1)


def size_loss(scores: Tensor, errors: Tensor) -> Tensor:
    """Mean squared error of scores as predictions of errors that are normalised within each image.

    Args:
        scores, errors: As in `order_loss`, M being at least 2.
    """
    errors = errors.detach().float()
    variance, mean = torch.var_mean(errors, dim=1, keepdim=True)
    return (scores.float() - (errors - mean) / (variance + _EPS).sqrt()).square().mean()
